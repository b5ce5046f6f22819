"""Scores by episodes in the environment."""

import time
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dydiff.data.mixed import MixedDataModule
from dydiff.envs import make_env
from dydiff.envs.play import NormalizedScore, Policy, play_episodes
from dydiff.utils import distributed
from dydiff.utils.seeding import SeededModule

SCORES = tuple(f"eval/{name}" for name in ("score", "score_std", "return", "return_std", "length"))
"""The names that an evaluation logs."""


class EvaluatedModule(SeededModule, ABC):
    """A module that evaluates its policy on episodes seeded by its data module, and logs against the number of updates.

    Args:
        sample_eval_actions: Play with sampled instead of deterministic actions.

    Attributes:
        num_updates: Gradient updates so far, an int64 scalar; the x-axis of every log.
        evaluation_seconds: Spent in evaluations so far, over all resumptions of the training.
    """

    num_updates: Tensor

    def __init__(self, sample_eval_actions: bool) -> None:
        super().__init__()
        self.sample_eval_actions = sample_eval_actions
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.evaluation_seconds = 0.0

    @abstractmethod
    def policy(self, sample: bool, generator: torch.Generator | None = None) -> Policy:
        """What plays: the module as it is, drawing its actions with ``generator`` if ``sample``."""

    @property
    def data(self) -> MixedDataModule:
        """The attached data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        self.score = NormalizedScore(self.data.task.score_min, self.data.task.score_max)

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        """Log scalars at ``num_updates`` on the x-axis (``step`` is the logger's reserved key for it)."""
        self.log_dict({**metrics, "step": self.num_updates.float()}, batch_size=1)

    def log_at_once(self, metrics: dict[str, float]) -> None:
        """Log scalars from an epoch's hook, where Lightning would log them only after the epoch's checkpoint."""
        self.log_dict(metrics, batch_size=1, logger=False)
        for logger in self.loggers:
            logger.log_metrics(metrics, int(self.num_updates))

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Play the episodes whose seeds are in the batch, ranks sharing them."""
        begin = time.perf_counter()
        seeds = distributed.share(batch).tolist()
        returns, lengths = self._play(seeds) if seeds else (torch.zeros(0), torch.zeros(0))
        self.score.update(returns.to(self.device), lengths.to(self.device))
        self.evaluation_seconds += time.perf_counter() - begin

    def _play(self, seeds: list[int]) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(self.device).manual_seed(seeds[0])  # an evaluation leaves the training as it was
        policy = self.policy(self.sample_eval_actions, generator)
        return play_episodes(policy, partial(make_env, self.data.task), seeds, self.device)

    def on_validation_epoch_end(self) -> None:
        scores = {f"eval/{name}": float(value) for name, value in self.score.compute().items()}
        self.score.reset()
        if self.trainer.state.fn == "fit":
            scores["seconds/evaluation"] = self.evaluation_seconds
        self.log_metrics(scores)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        is_last = self.current_epoch + 1 == self.trainer.max_epochs
        if is_last and self.trainer.check_val_every_n_epoch is not None:
            self.trainer.check_val_every_n_epoch = 1  # a training always ends with a score

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["evaluation_seconds"] = self.evaluation_seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.evaluation_seconds = checkpoint.get("evaluation_seconds", 0.0)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()
