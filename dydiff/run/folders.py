"""The folders ``<runs_dir>/<name>/version_<N>`` of the runs of one name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dydiff.run.settings import comparable, difference
from dydiff.utils.errors import UserError

_DURATIONS = {f"trainer.{end}_{unit}" for end in ("min", "max") for unit in ("epochs", "steps")} | {"trainer.max_time"}
_OF_AN_AGENT = ("seed_everything", "pretrained_seed", "model.", "rollout.", "data.source.")
_OF_SCORES = {
    "model.sample_eval_actions",
    "data.source.mujoco2_contacts",
    "data.source.score_min",
    "data.source.score_max",
}


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


def find_last(folder: Path, settings: Any) -> tuple[int | None, str | None]:
    """Version and checkpoint of the newest run in ``folder`` to go on with; ``None`` where none has a checkpoint.

    Args:
        folder: Of all runs of a name.
        settings: Plain settings of a command; only a run that was made with the same is one to go on with.

    Raises:
        UserError: There are runs, but only with other settings.
    """
    found, other = _newest(folder, settings, lambda key: key not in _DURATIONS)
    if other is not None:
        raise UserError(
            f"The run in {other}: give this one a name of its own with --name, or begin anew in the next version "
            "without --ckpt_path."
        )
    return found


def find_to_score(folder: Path, settings: Any) -> tuple[int | None, str | None]:
    """Version and checkpoint of the newest run in ``folder`` of the agent and the data that a command names.

    How an agent is scored may be another way than in its training; ``None`` where no run has a checkpoint.

    Raises:
        UserError: There are runs, but only with another agent, dataset, kind of synthetic data or seed.
    """
    found, other = _newest(folder, settings, lambda key: key.startswith(_OF_AN_AGENT) and key not in _OF_SCORES)
    if other is not None:
        raise UserError(f"The run in {other}: say the same, or name its checkpoint with --ckpt_path.")
    return found


def _newest(
    folder: Path, settings: Any, counts: Callable[[str], bool]
) -> tuple[tuple[int | None, str | None], str | None]:
    """Version and checkpoint of the newest run with the same settings, or what the newest of all was made with."""
    versions = sorted(
        (int(number), path)
        for path in folder.glob("version_*/checkpoints/last.ckpt")
        if (number := path.parent.parent.name.removeprefix("version_")).isdigit()
    )
    differences = []
    for version, path in reversed(versions):
        changed = _difference(path.parent.parent, settings, counts)
        if changed is None:
            return (version, str(path)), None
        differences.append(f"{path.parent.parent} was made with {changed}")
    return (None, None), next(iter(differences), None)


def _difference(folder: Path, settings: Any, counts: Callable[[str], bool]) -> str | None:
    """What a run was made with that a command says otherwise, of the settings that count."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise UserError(f"{folder / 'config.yaml'} is missing or broken: name the checkpoint to go on from.") from None
    made_with = {key: value for key, value in comparable(config).items() if counts(key)}
    return difference(made_with, comparable(settings))
