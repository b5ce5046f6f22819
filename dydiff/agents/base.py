"""The agent's contract, and what all agents share: K updates a step, logging, evaluation."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dydiff.agents.evaluation import EvaluatedModule
from dydiff.agents.optimization import COMPILE_FROM, Minimizer, compiled_if_possible
from dydiff.data.checks import ACT_LIMIT
from dydiff.data.episodes import Batch
from dydiff.data.tasks import Task
from dydiff.models.base import check_finite
from dydiff.models.normalizer import Normalizer
from dydiff.utils import distributed
from dydiff.utils.checkpoints import check_weights, read_checkpoint
from dydiff.utils.environment import computed_with
from dydiff.utils.errors import UserError


class Agent(EvaluatedModule):
    """An offline reinforcement learning agent with manual optimization. A new agent is a subclass in its own file.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        sample_eval_actions: Evaluate with sampled instead of deterministic actions.

    Attributes:
        normalizer: Standardises states; fitted to the dataset before training.
        minimizers: One for each optimizer of ``configure_optimizers``, in its order.
        compile_updates: Whether to compile the updates; ``auto``: where there are at least :data:`COMPILE_FROM`.
            Compiled and not, they agree up to rounding.
        compile_backend: torch.compile's backend.
        needs_real_transitions: Whether a minibatch must have real transitions.
    """

    minimizers: list[Minimizer]
    needs_real_transitions: bool = False
    compile_updates: bool | Literal["auto"] = False
    compile_backend: str = "inductor"

    def __init__(self, obs_dim: int, act_dim: int, sample_eval_actions: bool = False) -> None:
        super().__init__(sample_eval_actions)
        self.automatic_optimization = False
        self.obs_dim = obs_dim
        self.act_dim = act_dim
        self.normalizer = Normalizer(obs_dim)
        self._update: Callable[..., dict[str, Tensor]] = self.update
        self._total = 0  # updates of the training, if it has an end
        self._checked = False  # whether the metrics of a training step were those of the contract

    @abstractmethod
    def update(self, batch: Batch, **switches: bool) -> dict[str, Tensor]:
        """One gradient update on this rank's share ``[B]`` of a raw minibatch; returns detached scalars to log.

        ``minimizers`` take its gradient steps. What is drawn for the batch comes from :func:`distributed.draw`. A
        metric is pooled over updates and ranks by its mean, one whose name ends in ``_max`` by its maximum.

        It is compiled as a whole, so it must not branch on tensors; what it does in some updates only comes as a
        switch from :meth:`schedule`.
        """

    def schedule(self, count: int) -> dict[str, bool]:
        """The switches of the ``count``-th update, counted from 1; each combination is compiled once."""
        return {}

    def learning_rates(self, count: int, total: int) -> list[float] | None:
        """Learning rates of the ``count``-th of ``total`` updates, one for each minimizer; ``None``: as they are."""
        return None

    @abstractmethod
    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Actions for evaluation and rollouts.

        Args:
            obs: Raw states ``[N, O]``.
            sample: Draw from the policy, where it is a distribution, instead of its deterministic action.
            generator: Source of that randomness.

        Returns:
            Actions ``[N, A]`` in [-1, 1].
        """

    def log_prob(self, obs: Tensor, act: Tensor) -> Tensor:
        """Log-density ``[N]`` of actions up to a constant; guided synthesizers follow its gradient.

        For a policy without a density: a Gaussian of unit variance around its deterministic action (as PGD has it).
        """
        return -(act - self.act(obs)).square().sum(-1) / 2

    def q_value(self, obs: Tensor, act: Tensor) -> Tensor:
        """The lowest of the critics, ``[N]``, for raw states and actions; an agent with other critics overrides it.

        Raises:
            UserError: The agent has no ``critics``.
        """
        critics = getattr(self, "critics", None)
        if critics is None:
            raise UserError(f"{type(self).__name__} has no 'critics' to value states with: give it a q_value method.")
        return critics.q_values(self.normalizer(obs), act).min(0).values

    def check(self) -> None:
        """Refuse a subclass that breaks the contract, before anything is trained.

        Raises:
            UserError: Its checkpoints could not be loaded again, or its actions are not what an environment accepts.
        """
        name = type(self).__name__
        if "obs_dim" not in self.hparams:
            raise UserError(
                f"{name} must call self.save_hyperparameters() in its __init__, or its checkpoints cannot be loaded."
            )
        with torch.no_grad():
            act = self.act(torch.zeros(2, self.obs_dim))
        if act.shape != (2, self.act_dim):
            raise UserError(f"{name}.act gives shape {tuple(act.shape)} for 2 states, not {(2, self.act_dim)}.")
        if not (act.abs() <= ACT_LIMIT).all():
            raise UserError(f"{name}.act must give actions in [-1, 1], not {float(act.abs().max()):.3g}.")

    def policy(self, sample: bool, generator: torch.Generator | None = None) -> "AgentPolicy":
        """What rollouts and evaluations see of the agent."""
        return AgentPolicy(self, sample, generator)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.normalizer.set_standard(*self.data.obs_statistics)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        task = self.data.task
        facts = {"env_id": task.env_id, "mujoco2_contacts": task.mujoco2_contacts}
        for logger in self.loggers:
            logger.log_hyperparams({"dataset": self.data.source.name, **facts, "computed_with": computed_with()})

    def on_train_start(self) -> None:
        super().on_train_start()
        optimizers = self.optimizers(use_pl_optimizer=False)
        self.minimizers = [Minimizer(each) for each in (optimizers if isinstance(optimizers, list) else [optimizers])]
        self._update = self.update
        self._total = (self.trainer.max_epochs or 0) * self.data.updates_per_epoch
        compiles = self._total >= COMPILE_FROM if self.compile_updates == "auto" else self.compile_updates
        if compiles:
            self._update = compiled_if_possible(self.update, self.minimizers, self.compile_backend, self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """``K`` updates on a stack ``[K, B]`` of minibatches; logs each metric once.

        Raises:
            UserError: A metric is not finite.
        """
        collected: dict[str, list[Tensor]] = defaultdict(list)
        before = int(self.num_updates)
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for minimizer in self.minimizers:
            minimizer.sync_lr()
        for index in range(len(batch.reward)):
            count = before + index + 1
            if self._total > 0 and (rates := self.learning_rates(count, self._total)) is not None:
                for minimizer, rate in zip(self.minimizers, rates, strict=True):
                    minimizer.set_lr(rate)
            logged = self._update(batch.at(index), **self.schedule(count))
            if not self._checked:
                self._check_metrics(logged)
            for name, value in logged.items():
                collected[name].append(value)
            progress.increment_ready()
            progress.increment_completed()  # of the trainer's global_step
        self._checked = True
        self.num_updates += len(batch.reward)
        metrics = _pooled({f"train/{name}": torch.stack(values) for name, values in collected.items()})
        self.log_metrics(metrics)
        check_finite(metrics, f"after {int(self.num_updates):,} updates")

    def _check_metrics(self, metrics: Any) -> None:
        if not isinstance(metrics, dict):
            raise UserError(f"{type(self).__name__}.update must return metrics by name, not {metrics!r:.40}.")
        for name, value in metrics.items():
            if not isinstance(value, Tensor) or value.ndim or value.requires_grad:
                raise UserError(
                    f"{type(self).__name__}.update must return detached scalar tensors, which '{name}' is not."
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["task"] = self.data.task.name


@dataclass(frozen=True)
class AgentPolicy:
    """An agent's policy, ``obs [N, O] -> act [N, A]``, with its own random numbers.

    Attributes:
        agent: The agent.
        sample: Whether actions are drawn or deterministic.
        generator: Source of the draws.
    """

    agent: Agent
    sample: bool
    generator: torch.Generator | None = None

    def __call__(self, obs: Tensor) -> Tensor:
        return self.agent.act(obs, self.sample, self.generator)

    def log_prob(self, obs: Tensor, act: Tensor) -> Tensor:
        """See :meth:`Agent.log_prob`."""
        return self.agent.log_prob(obs, act)

    def value(self, obs: Tensor) -> Tensor:
        """Values ``[N]`` of states, by :meth:`Agent.q_value` of the policy's actions."""
        return self.agent.q_value(obs, self(obs))


def check_task(checkpoint: dict[str, Any], task: Task) -> None:
    """Refuse another task's checkpoint.

    Raises:
        UserError: The checkpoint is of another task.
    """
    if checkpoint.get("task") != task.name:
        raise UserError(f"The checkpoint is of the task '{checkpoint.get('task')}', the data of '{task.name}'.")


def load_agent(agent: Agent, checkpoint: str | None, task: Task) -> None:
    """Load a checkpoint's weights into ``agent``.

    Raises:
        UserError: None is named, there is no such checkpoint, or it is of another task.
    """
    if checkpoint is None:
        raise UserError("An agent to measure with needs its 'checkpoint'.")
    content = read_checkpoint(Path(checkpoint))
    check_task(content, task)
    check_weights(content["state_dict"], agent.state_dict(), checkpoint, type(agent).__name__)
    agent.load_state_dict(content["state_dict"])
    agent.eval()


def _pooled(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean, or maximum, over updates and ranks of metrics ``[K]``."""
    values = list(metrics.values())
    means = {name: value.mean() for name, value in zip(metrics, distributed.mean(values), strict=True)}
    largest = zip(metrics, distributed.largest(values), strict=True)
    return means | {name: value.max() for name, value in largest if name.endswith("_max")}
