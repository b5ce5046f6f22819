"""Rollouts by the single-step model alone (eq. 6): MBPO's, and the draft that DyDiff corrects."""

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from dydiff.data.episodes import Trajectories
from dydiff.errors import UserError
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.models.reward import RewardModel
from dydiff.rollout.base import Policy, Synthesizer, module_of


class Autoregressive(Synthesizer):
    """The policy and the dynamics model in turn, for ``rollout_length`` steps.

    Args:
        dynamics: Single-step model, or the config that trains it.
        reward: Reward model, or the config that trains it.
        rollout_length: Steps of a trajectory (L).

    Raises:
        UserError: ``rollout_length`` below 1.
    """

    def __init__(
        self, dynamics: DynamicsEnsemble | Path_fr, reward: RewardModel | Path_fr, rollout_length: int = 100
    ) -> None:
        super().__init__()
        if rollout_length < 1:
            raise UserError(f"rollout_length must be at least 1, not {rollout_length}.")
        self.dynamics = module_of(dynamics)
        self.reward = module_of(reward)
        self.rollout_length = rollout_length

    @torch.no_grad()
    def synthesize(
        self, policy: Policy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        return self.finish(*self.draft(policy, start_obs, generator)), {}

    def draft(
        self, policy: Policy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """States ``[N, L + 1, O]`` and actions ``[N, L, A]`` by eq. 6."""
        states, actions = [start_obs], []
        for _ in range(self.rollout_length):
            actions.append(policy(states[-1]))
            states.append(self.dynamics.step(states[-1], actions[-1], generator))
        return torch.stack(states, dim=1), torch.stack(actions, dim=1)

    def finish(self, obs: Tensor, act: Tensor) -> Trajectories:
        """Predict rewards, and cut after the first terminal state."""
        terminal = self.terminated(obs[:, :-1], act, obs[:, 1:])
        return Trajectories.cut(obs, act, self.reward(obs[:, :-1], act), terminal)
