"""Scores by episodes in the environment, played while the training waits or beside it."""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dydiff.data.mixed import MixedDataModule
from dydiff.data.tasks import Task
from dydiff.envs import make_env
from dydiff.envs.play import NormalizedScore, Policy, play_episodes
from dydiff.utils import distributed
from dydiff.utils.seeding import SeededModule

SCORES = tuple(f"eval/{name}" for name in ("score", "score_std", "return", "return_std", "length"))
"""The names that an evaluation logs."""


class EvaluatedModule(SeededModule, ABC):
    """A module whose policy plays the episodes that its data module names the seeds of; it logs over its updates.

    Args:
        sample_eval_actions: Play with sampled instead of deterministic actions.

    Attributes:
        num_updates: Gradient updates so far, an int64 scalar; the x-axis of every log.
        overlap_evaluation: Whether the training goes on while its evaluations' episodes are played on the CPU. Then a
            score is logged, at its own ``num_updates``, when the next evaluation begins or the training ends.
        evaluation_seconds: For which a training has waited so far, over all its resumptions.
    """

    overlap_evaluation: bool = False
    num_updates: Tensor

    def __init__(self, sample_eval_actions: bool) -> None:
        super().__init__()
        self.sample_eval_actions = sample_eval_actions
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.evaluation_seconds = 0.0
        self._pending: _Evaluation | None = None
        self._due = False

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
        self._pending = _Evaluation(self, distributed.share(batch).tolist(), self._beside)

    def on_validation_epoch_start(self) -> None:
        self.end_evaluation()

    def on_validation_epoch_end(self) -> None:
        if not self._beside:
            self.log_metrics(self._scores())

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    def on_train_start(self) -> None:
        self._begin_due()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        is_last = self.current_epoch + 1 == self.trainer.max_epochs
        if is_last and self.trainer.check_val_every_n_epoch is not None:
            self.trainer.check_val_every_n_epoch = 1  # a training always ends with a score

    def on_train_end(self) -> None:
        self.end_evaluation()

    def on_fit_end(self) -> None:
        super().on_fit_end()
        self._begin_due()  # of a run that was stopped after its last update: no training has started
        self.end_evaluation()

    def _begin_due(self) -> None:
        """Play the episodes of the evaluation that the checkpoint says was not over."""
        if self._due:
            for batch in self.data.val_dataloader():
                self.validation_step(batch, 0)
        self._due = False

    def end_evaluation(self) -> None:
        """Log the scores of an evaluation beside the training, once its episodes have been played."""
        if self._pending is None:
            return
        num_updates, scores = self._pending.num_updates, self._scores()
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scores.items()})
        for logger in self.loggers:
            logger.log_metrics(scores, num_updates)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._pending is not None and self._pending.num_updates == int(self.num_updates):
            checkpoint["evaluation_due"] = True  # who goes on from here plays its episodes, with the same weights
        else:
            self.end_evaluation()
        checkpoint["evaluation_seconds"] = self.evaluation_seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.evaluation_seconds = checkpoint.get("evaluation_seconds", 0.0)
        self._due = checkpoint.get("evaluation_due", False)

    @property
    def _beside(self) -> bool:
        return self.overlap_evaluation and self.trainer.state.fn == "fit"

    def _scores(self) -> dict[str, float]:
        assert self._pending is not None
        self.score.update(*(value.to(self.device) for value in self._pending.episodes()))
        self.evaluation_seconds += self._pending.seconds
        self._pending = None
        scores = {f"eval/{name}": float(value) for name, value in self.score.compute().items()}
        self.score.reset()
        if self.trainer.state.fn == "fit":
            scores["seconds/evaluation"] = self.evaluation_seconds
        return scores


class _Evaluation:
    """Episodes with the policy that a module has now, their returns and lengths.

    Args:
        module: The module.
        seeds: Of the episodes; there may be none.
        beside: Play them with a copy of the module on the CPU, in a thread; otherwise at once, where the module is.

    Attributes:
        num_updates: Of the module so far.
        seconds: For which the training has waited.
    """

    def __init__(self, module: EvaluatedModule, seeds: Sequence[int], beside: bool) -> None:
        begin = time.perf_counter()
        self.num_updates = int(module.num_updates)
        self._played: Future[tuple[Tensor, Tensor]] = Future()
        if beside:
            self._played = ThreadPoolExecutor(1).submit(_play, copy.deepcopy(module).cpu(), module.data.task, seeds)
        else:
            self._played.set_result(_play(module, module.data.task, seeds))
        self.seconds = time.perf_counter() - begin

    def episodes(self) -> tuple[Tensor, Tensor]:
        """Returns and lengths of the episodes; waits for those that are still played."""
        begin = time.perf_counter()
        episodes = self._played.result()
        self.seconds += time.perf_counter() - begin
        return episodes


def _play(module: EvaluatedModule, task: Task, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    if not seeds:
        return torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    generator = torch.Generator(module.device).manual_seed(seeds[0])  # an evaluation leaves the training as it was
    policy = module.policy(module.sample_eval_actions, generator)
    return play_episodes(policy, partial(make_env, task), seeds, module.device)
