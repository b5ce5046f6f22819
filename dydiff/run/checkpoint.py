"""The checkpoint that a command resumes from or scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace

from dydiff.run.folders import find_to_score
from dydiff.run.settings import check_settings, plain
from dydiff.utils.checkpoints import check_weights, read_checkpoint
from dydiff.utils.errors import UserError


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file and its content."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path | str) -> "Checkpoint":
        """Read a file.

        Raises:
            UserError: As in :func:`read_checkpoint`.
        """
        return cls(Path(path), read_checkpoint(Path(path)))

    @property
    def purge_step(self) -> int:
        """The first update that is logged again by a run that resumes from here."""
        return int(self.content["state_dict"].get("num_updates", self.content["global_step"])) + 1

    def check_weights(self, model: L.LightningModule) -> None:
        """Refuse weights that are not the model's.

        Raises:
            UserError: They are not.
        """
        check_weights(self.content["state_dict"], model.state_dict(), self.path, type(model).__name__)


def checkpoint_to_resume(config: Namespace, path: Path | str | None) -> Checkpoint | None:
    """The checkpoint of a ``fit``, if it has one. The saved config has none, as running it again is a new run.

    Args:
        config: The parsed config; its ``ckpt_path`` becomes ``None``.
        path: The file; ``None`` starts from the beginning.

    Raises:
        UserError: The file cannot be used, or was written with other settings.
    """
    config.ckpt_path = None
    if path is None:
        return None
    checkpoint = Checkpoint.read(path)
    # Lightning's CLI instead lets the checkpoint's hyperparameters silently override YAML and command line.
    check_settings(checkpoint.content, config.model.class_path, plain(config.model.init_args))
    return checkpoint


def checkpoint_to_score(config: Namespace) -> Checkpoint:
    """The checkpoint of a ``validate`` or ``test``.

    Raises:
        UserError: No checkpoint is named, the run has none, or the file cannot be used.
    """
    path = config.ckpt_path
    if path == "last":
        folder = Path(config.runs_dir, config.name)
        _, path = find_to_score(folder, plain(config))
        if path is None:
            raise UserError(f"{folder} has no checkpoint to score.")
    if path is None:
        raise UserError("There is nothing to score: give --ckpt_path last, or a checkpoint's file.")
    return Checkpoint.read(path)
