"""Rollouts by the single-step model alone (eq. 6): MBPO's, and the draft that DyDiff corrects."""

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from dydiff.data.episodes import EpisodeSource, Trajectories
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
        sample_states: Sample the next state (the paper), or take the chosen elite's mean.
        clip_states: Keep the states of the draft within the range of the data, in each dimension.

    Raises:
        UserError: ``rollout_length`` below 1.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        dynamics: DynamicsEnsemble | Path_fr,
        reward: RewardModel | Path_fr,
        rollout_length: int = 100,
        sample_states: bool = True,
        clip_states: bool = False,
    ) -> None:
        super().__init__()
        if rollout_length < 1:
            raise UserError(f"rollout_length must be at least 1, not {rollout_length}.")
        self.dynamics = module_of(dynamics)
        self.reward = module_of(reward)
        self.rollout_length = rollout_length
        self.sample_states = sample_states
        self.clip_states = clip_states

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        data = source.load().transitions
        self.register_buffer("low", torch.minimum(data.obs.amin(0), data.next_obs.amin(0)), persistent=False)
        self.register_buffer("high", torch.maximum(data.obs.amax(0), data.next_obs.amax(0)), persistent=False)

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
            states.append(self.step(states[-1], actions[-1], generator))
        return torch.stack(states, dim=1), torch.stack(actions, dim=1)

    def step(self, obs: Tensor, act: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The states ``[N, O]`` that follow."""
        next_obs = self.dynamics.step(obs, act, generator, self.sample_states)
        return next_obs.clamp(self.low, self.high) if self.clip_states else next_obs

    def finish(self, obs: Tensor, act: Tensor, next_obs: Tensor | None = None) -> Trajectories:
        """Predict rewards, and cut after the first terminal state."""
        next_obs = obs[:, 1:] if next_obs is None else next_obs
        terminal = self.terminated(obs[:, :-1], act, next_obs)
        return Trajectories.cut(obs, act, self.reward(obs[:, :-1], act), terminal, next_obs)
