"""The synthesizer's contract."""

from abc import ABC, abstractmethod
from typing import Protocol, TypeVar

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor, nn

from dydiff.data.episodes import Trajectories
from dydiff.data.source import EpisodeSource
from dydiff.data.termination import TerminationRule, never
from dydiff.envs.play import Policy
from dydiff.models.base import PretrainedModule
from dydiff.utils.errors import UserError

Model = TypeVar("Model", bound=PretrainedModule)


class LearningPolicy(Protocol):
    """What a synthesizer sees of the learning agent."""

    def __call__(self, obs: Tensor) -> Tensor:
        """Actions ``[N, A]`` for raw states ``[N, O]``."""

    def log_prob(self, obs: Tensor, act: Tensor) -> Tensor:
        """Log-density ``[N]`` of actions, up to a constant."""

    def value(self, obs: Tensor) -> Tensor:
        """Values ``[N]`` of states."""


class PlainPolicy:
    """A policy without densities and values, such as recorded actions, in the place of a learning one.

    Args:
        policy: Gives the actions.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, obs: Tensor) -> Tensor:
        return self.policy(obs)

    def log_prob(self, obs: Tensor, act: Tensor) -> Tensor:
        raise UserError("This synthesizer needs an agent's policy: recorded actions have no log_prob.")

    def value(self, obs: Tensor) -> Tensor:
        raise UserError("This synthesizer needs an agent's policy: recorded actions have no values.")


class Synthesizer(nn.Module, ABC):
    """Makes trajectories for a policy. A new synthesizer is a subclass in its own file.

    A constructor argument annotated ``SomeModel | Path_fr`` is a pretrained model: a config gives the path of the YAML
    that trains it, and ``fit`` trains it or finds it trained, and passes the module.

    Attributes:
        rollout_length: Steps of a trajectory (L).
        terminated: The task's termination rule.
    """

    rollout_length: int
    terminated: TerminationRule = staticmethod(never)

    def check(self, policy: LearningPolicy) -> None:
        """Refuse an agent whose policy cannot be rolled out, before any model is trained.

        Raises:
            UserError: It lacks what the trajectories depend on.
        """

    def attach(self, source: EpisodeSource) -> None:
        """Take from the run's dataset what the trajectories depend on, before the first of them."""
        self.terminated = source.task.terminated

    @abstractmethod
    def synthesize(
        self, policy: LearningPolicy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        """Roll the policy out.

        Args:
            policy: The learning policy.
            start_obs: Raw first states ``[N, O]``.
            generator: Source of all randomness but the policy's.

        Returns:
            ``N`` trajectories with rewards and terminals filled in, and diagnostic metrics, ``[N]`` each.
        """


def module_of(model: Model | Path_fr) -> Model:
    """A pretrained model that a synthesizer was given.

    Raises:
        UserError: It is still the path of a config.
    """
    if not isinstance(model, Path_fr):
        return model
    raise UserError(f"{model} is the config of a model, not a trained model: only `dydiff fit` trains and loads it.")
