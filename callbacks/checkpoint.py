"""The checkpoint that a run is resumed from."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from dydiff.utils.errors import at_least


class LastCheckpoint(Checkpoint):
    """Keeps the newest state in ``<log folder>/checkpoints/last.ckpt``, where ``--ckpt_path last`` finds it.

    Args:
        every_n_epochs: Epochs from one save to the next; the last is saved, too, whatever ends the training.

    Attributes:
        seconds: Spent on saving so far, over all resumptions of the training.
        earlier_seconds: Of the training before it was resumed.

    Raises:
        UserError: ``every_n_epochs`` is less than 1.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        at_least(1, every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self.seconds, self.earlier_seconds = 0.0, 0.0
        self._begin = time.perf_counter()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin = time.perf_counter()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["checkpoint_seconds"] = self.seconds
        checkpoint["fit_seconds"] = self.earlier_seconds + time.perf_counter() - self._begin

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.seconds = checkpoint.get("checkpoint_seconds", 0.0)
        self.earlier_seconds = checkpoint.get("fit_seconds", 0.0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Save here, not after validation: a resume from there would validate twice.
        epoch = trainer.current_epoch + 1
        is_last = epoch == trainer.max_epochs or trainer.should_stop or -1 < trainer.max_steps <= trainer.global_step
        if epoch % self.every_n_epochs and not is_last:
            return
        begin = time.perf_counter()
        for logger in trainer.loggers:  # what was logged before the checkpoint is not logged again after it
            logger.save()
        trainer.save_checkpoint(Path(trainer.log_dir or trainer.default_root_dir, "checkpoints", "last.ckpt"))
        self.seconds += time.perf_counter() - begin
