"""The loggers of a run. Those that write files do so in its folder, next to its checkpoints and its config."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from dydiff.run.settings import class_of, plain

Configs = Namespace | Sequence[Namespace] | bool | None
"""What ``trainer.logger`` of a parsed config may be; ``None`` and ``True`` stand for the default."""
FILE_LOGGERS = (TensorBoardLogger, CSVLogger)
"""The loggers that write files; a run chooses their folder."""


def is_default(configs: Configs) -> bool:
    """Whether no logger is named."""
    return configs is None or configs is True


def without_files(configs: Configs) -> list[Namespace] | bool:
    """What is left of ``trainer.logger`` where there is no run to log into; ``False`` where nothing is."""
    return [each for each in listed(configs) if not issubclass(class_of(each), FILE_LOGGERS)] or False


def loggers_of(configs: Configs, made: Sequence[Logger], folder: Path, purge_step: int | None) -> list[Logger]:
    """The loggers of a run, first those that write files: there is one at least, TensorBoard's where none is named.

    Args:
        configs: ``trainer.logger`` of the parsed config.
        made: What the trainer has made of it.
        folder: The run's folder.
        purge_step: Of a resumed run, the first update whose records are to be forgotten.
    """
    entries = listed(configs)
    if not entries:
        return [_in_folder(TensorBoardLogger, {"default_hp_metric": False}, folder, purge_step)]
    files: list[Logger] = [
        _in_folder(
            class_of(entry),
            plain({**(entry.get("init_args") or {}), **(entry.get("dict_kwargs") or {})}),
            folder,
            purge_step,
        )
        for entry in entries
        if issubclass(class_of(entry), FILE_LOGGERS)
    ]
    others = [logger for logger in made if not isinstance(logger, FILE_LOGGERS)]
    return [*(files or loggers_of(None, (), folder, purge_step)), *others]


def _in_folder(kind: type[Logger], arguments: dict[str, Any], folder: Path, purge_step: int | None) -> Logger:
    """Make a logger write into ``folder``, split into Lightning's save_dir, name and version."""
    place = {"save_dir": str(folder.parent.parent), "name": folder.parent.name, "version": folder.name}
    if issubclass(kind, TensorBoardLogger):
        return kind(**{**arguments, **place, "sub_dir": None, "purge_step": purge_step})
    _keep_earlier(folder / "metrics.csv")
    return kind(**{**arguments, **place})


def listed(configs: Configs) -> list[Namespace]:
    """The loggers that ``trainer.logger`` names."""
    if is_default(configs) or configs is False:
        return []
    return list(configs) if isinstance(configs, (list, tuple)) else [configs]  # type: ignore[list-item]


@rank_zero_only  # the others do not log, nor know the folder
def _keep_earlier(table: Path) -> None:
    """Rename what a run has logged before it resumes: Lightning's logger removes a file of its own name."""
    if table.is_file():
        number = len(list(table.parent.glob("metrics_*.csv")))
        table.rename(table.with_name(f"metrics_{number:03}.csv"))
