import lightning as L
import pytest
import torch

from callbacks import StageProgress, progress
from callbacks.progress import duration


@pytest.mark.parametrize(
    ("seconds", "said"), [(5, "5 seconds"), (300, "5 minutes"), (10_000, "3 hours"), (6_400_000, "74 days")]
)
def test_a_stage_says_how_long_it_takes_in_words_for_people(seconds, said):
    assert duration(seconds) == said


class SlowFirstStep(L.LightningModule):
    """Its clock moves on by 600 s in the first step, which compiles, and by 1 s in every other."""

    clock = 0.0
    automatic_optimization = False

    def configure_optimizers(self):
        return None

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(100, 1))

    def training_step(self, batch, index):
        self.clock += 600 if self.clock == 0 else 1


@pytest.mark.parametrize(
    ("epochs_before", "said"), [(0, "2 epochs take about 3 minutes"), (5, "2 epochs take about 3 minutes")]
)
def test_the_first_step_does_not_count_in_the_time_that_a_stage_takes(monkeypatch, capsys, epochs_before, said):
    """Nor do the epochs before those that a run goes on with."""
    module = SlowFirstStep()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: module.clock)
    trainer = L.Trainer(
        max_epochs=epochs_before + 2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=[StageProgress(measure_seconds=20)],
    )  # fmt: skip
    trainer.fit_loop.epoch_progress.current.processed = epochs_before
    trainer.fit_loop.epoch_progress.current.completed = epochs_before
    trainer.fit(module)
    assert f"SlowFirstStep: up to {said}" in capsys.readouterr().out
