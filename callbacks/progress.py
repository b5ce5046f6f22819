"""A progress bar for every long stage, with an estimate of the total time."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

Item = TypeVar("Item")


class StageProgress(RichProgressBar):
    """Lightning's progress bar, which also estimates the time of the full ``fit`` from the steps after the first.

    Args:
        measure_seconds: How long to watch, from the end of the first step, before saying it.
    """

    def __init__(self, measure_seconds: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.measure_seconds = measure_seconds
        self._begin, self._steps, self._estimated, self._first_epoch = 0.0, -1, False, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._steps, self._estimated, self._first_epoch = -1, False, trainer.current_epoch  # a run may be resumed

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        super().on_train_batch_end(trainer, *args, **kwargs)
        self._steps += 1
        if self._steps == 0:  # the first step may compile, so it is not representative
            self._begin = time.perf_counter()
            return
        passed = time.perf_counter() - self._begin
        epochs = (trainer.max_epochs or 0) - self._first_epoch
        total = int(trainer.num_training_batches) * epochs - 1
        known = passed >= self.measure_seconds and self._steps < total  # an endless run has no total
        if self._estimated or not known or not trainer.is_global_zero:
            return
        self._estimated = True
        remaining = (total - self._steps) * passed / self._steps
        name = type(trainer.lightning_module).__name__
        print(f"{name}: up to {epochs} epochs take about {duration(remaining)} more on this machine.")


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    for limit, size, unit in ((120, 1, "seconds"), (7200, 60, "minutes"), (172_800, 3600, "hours")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def track(trainer: L.Trainer, items: Sequence[Item], description: str) -> Iterator[Item]:
    """Iterate over ``items`` with a separate bar below Lightning's."""
    bar = trainer.progress_bar_callback
    progress = getattr(bar, "progress", None)
    if progress is None:
        yield from items
        return
    task = progress.add_task(description, total=len(items), metrics="")
    for item in items:
        yield item
        progress.advance(task)
        progress.refresh()
    progress.remove_task(task)
