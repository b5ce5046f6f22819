"""Trains an agent on given minibatches, without a dataset or an environment."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dydiff.agents.base import Agent
from dydiff.data.episodes import Batch
from dydiff.data.tasks import HOPPER


class Minibatches(L.LightningDataModule):
    """Given minibatches, a stack of ``updates_per_step`` for each training step.

    Args:
        batches: ``[updates, B]`` minibatches.
        updates_per_step: How many make a training step.
        normalized_by: States ``[N, O]`` that the agent's normalizer is fitted to; ``None`` leaves states as they are.
    """

    task = HOPPER
    return_range = (0.0, 2000.0)

    def __init__(self, batches: Batch, updates_per_step: int, normalized_by: Tensor | None = None) -> None:
        super().__init__()
        self.updates_per_epoch = len(batches.reward)
        starts = range(0, self.updates_per_epoch, updates_per_step)
        self.stacks = [batches.at(slice(first, first + updates_per_step)) for first in starts]
        ones = torch.ones(batches.obs.shape[-1])
        obs = torch.stack([-ones, ones]) if normalized_by is None else normalized_by
        self.obs_statistics = obs.mean(0), obs.std(0, correction=0)

    def train_dataloader(self) -> "DataLoader[Any]":
        return DataLoader(self.stacks, batch_size=None)  # type: ignore[arg-type]


def train(
    agent: Agent, batches: Batch, updates_per_step: int = 1, normalized_by: Tensor | None = None
) -> list[dict[str, float]]:
    """One pass over minibatches by Lightning's trainer; the arguments are those of :class:`Minibatches`.

    Returns:
        The metrics of each training step.
    """
    metrics = []

    class Record(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, callbacks=[Record()],
    )  # fmt: skip
    trainer.fit(agent, datamodule=Minibatches(batches, updates_per_step, normalized_by))
    return metrics


def random_batches(updates: int, size: int = 32, obs_dim: int = 4, act_dim: int = 2, seed: int = 0) -> Batch:
    """Minibatches ``[updates, size]`` of unrelated numbers; a tenth of the steps is terminal, six tenths are real.

    The next action of synthetic steps is not known.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (updates, size)
    batches = Batch(
        torch.randn(*shape, obs_dim, generator=generator),
        torch.rand(*shape, act_dim, generator=generator) * 2 - 1,
        torch.randn(shape, generator=generator),
        torch.randn(*shape, obs_dim, generator=generator),
        torch.rand(shape, generator=generator) < 0.1,
        torch.rand(shape, generator=generator) < 0.6,
        torch.rand(*shape, act_dim, generator=generator) * 2 - 1,
    )
    return batches._replace(next_act=batches.next_act.where(batches.real[..., None], torch.nan))
