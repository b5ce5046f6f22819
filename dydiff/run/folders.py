"""The folders ``<runs_dir>/<name>/version_<N>`` of the runs of one name."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from dydiff.run.locks import run_id
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
    """Make the first missing ``version_N``. Runs that start together get different ones."""
    version = 0
    while True:
        try:
            (folder / f"version_{version}").mkdir(parents=True)
        except FileExistsError:
            version += 1
        else:
            return version


@contextmanager
def alone(folder: Path, seconds: float = 5.0) -> Iterator[None]:
    """Hold a run's folder, so that no second process trains in it; a process that dies releases it.

    Rank 0 holds the folder for all ranks of its run.

    Args:
        folder: Of the run.
        seconds: To wait for a process that is about to end.

    Raises:
        UserError: Another process trains in it.
    """
    if getattr(rank_zero_only, "rank", 0):
        yield
        return
    try:
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=seconds)
    except Timeout:
        raise UserError(f"Another process trains in {folder}: wait until it ends, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def throwaway(runs_dir: str, with_models: bool) -> Iterator[str]:
    """A temporary folder in the place of ``runs_dir``, for a run that leaves nothing behind.

    Args:
        runs_dir: Folder of all runs; if it is such a temporary one, it is used as it is.
        with_models: Whether the pretrained models of ``runs_dir`` are in it.
    """
    folder = Path(tempfile.gettempdir(), f"dydiff-{run_id()}")
    if Path(runs_dir) == folder:
        yield runs_dir
        return
    (folder / "pretrained").mkdir(parents=True, exist_ok=True)
    found = [weights for name in ("pretrained", "parts") for weights in Path(runs_dir, name).glob("[!.]*/weights.pt")]
    for weights in found if with_models else ():
        with suppress(FileExistsError):  # another rank was first
            (folder / "pretrained" / weights.parent.name).symlink_to(weights.parent.absolute())
    try:
        yield str(folder)
    finally:
        if not getattr(rank_zero_only, "rank", 0):
            shutil.rmtree(folder, ignore_errors=True)


def find_last(folder: Path, settings: Any) -> tuple[int | None, str | None]:
    """Version and checkpoint of the newest run in ``folder`` to resume; ``None`` where none has a checkpoint.

    Args:
        folder: Of all runs of a name.
        settings: Plain settings of a command; only a run that was made with the same can be resumed.

    Raises:
        UserError: There are runs, but only with other settings.
    """
    found, other = _newest(folder, settings, lambda key: key not in _DURATIONS)
    if other is not None:
        raise UserError(
            f"The run in {other}: give this one another name with --name, or start a new run in the next version "
            "without --ckpt_path."
        )
    return found


def find_to_score(folder: Path, settings: Any) -> tuple[int | None, str | None]:
    """Version and checkpoint of the newest run in ``folder`` of the agent and the data that a command names.

    Evaluation settings may differ from training; ``None`` where no run has a checkpoint.

    Raises:
        UserError: There are runs, but only with another agent, dataset, kind of synthetic data or seed.
    """
    found, other = _newest(folder, settings, lambda key: key.startswith(_OF_AN_AGENT) and key not in _OF_SCORES)
    if other is not None:
        raise UserError(f"The run in {other}: give the same settings, or name its checkpoint with --ckpt_path.")
    return found


def _newest(
    folder: Path, settings: Any, counts: Callable[[str], bool]
) -> tuple[tuple[int | None, str | None], str | None]:
    """Version and checkpoint of the newest run with the same settings, or how the newest of all differs."""
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
    """Describe the first setting that counts and differs between a run and a command, or return None."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise UserError(f"{folder / 'config.yaml'} is missing or broken: name the checkpoint to resume.") from None
    made_with = {key: value for key, value in comparable(config).items() if counts(key)}
    return difference(made_with, comparable(settings))
