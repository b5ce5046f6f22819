"""The folders ``<runs_dir>/<name>/version_<N>`` of the runs of one name."""

from pathlib import Path


def claim_version(folder: Path) -> int:
    """Make the first ``version_N`` that is not there; of runs that start together, each gets its own."""
    version = 0
    while True:
        try:
            (folder / f"version_{version}").mkdir(parents=True)
        except FileExistsError:
            version += 1
        else:
            return version


def find_last(folder: Path) -> tuple[int | None, str | None]:
    """Version and checkpoint of the newest run in ``folder`` that has one, to go on from; ``None`` where none has."""
    versions = sorted(
        (int(number), str(path))
        for path in folder.glob("version_*/checkpoints/last.ckpt")
        if (number := path.parent.parent.name.removeprefix("version_")).isdigit()
    )
    return versions[-1] if versions else (None, None)
