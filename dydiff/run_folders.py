"""The folders ``<runs_dir>/<name>/version_<N>`` of the runs of one name."""

from pathlib import Path
from typing import Any

import yaml

from dydiff.errors import UserError
from dydiff.settings import comparable, difference

_DURATIONS = {f"trainer.{end}_{unit}" for end in ("min", "max") for unit in ("epochs", "steps")} | {"trainer.max_time"}


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


def find_last(folder: Path, settings: Any = None) -> tuple[int | None, str | None]:
    """Version and checkpoint of the newest run in ``folder`` that has one; ``None`` where none has.

    Args:
        folder: Of all runs of a name.
        settings: Plain settings of a command; only a run that was made with the same is one to go on with.

    Raises:
        UserError: There are runs, but only with other settings.
    """
    versions = sorted(
        (int(number), path)
        for path in folder.glob("version_*/checkpoints/last.ckpt")
        if (number := path.parent.parent.name.removeprefix("version_")).isdigit()
    )
    differences = []
    for version, path in reversed(versions):
        difference = None if settings is None else _difference(path.parent.parent, settings)
        if difference is None:
            return version, str(path)
        differences.append(difference)
    if differences:
        raise UserError(
            f"The run in {folder / f'version_{versions[-1][0]}'} was made with {differences[0]}: give this one a name "
            "of its own with --name, or begin anew in the next version without --ckpt_path."
        )
    return None, None


def _difference(folder: Path, settings: Any) -> str | None:
    """What a run was made with that a command says otherwise; how long it lasts may differ."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise UserError(f"{folder / 'config.yaml'} is missing or broken: name the checkpoint to go on from.") from None
    return difference(comparable(config), comparable(settings), but=_DURATIONS)
