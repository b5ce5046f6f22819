"""Rollouts by the single-step model alone (eq. 6): MBPO's, and the draft that DyDiff corrects."""

from typing import Any, Literal, cast

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from dydiff.data.episodes import Trajectories
from dydiff.data.source import EpisodeSource
from dydiff.data.termination import ended
from dydiff.envs.play import Policy
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.models.reward import RewardModel
from dydiff.rollout.base import Synthesizer, module_of
from dydiff.utils.errors import UserError, at_least


class Autoregressive(Synthesizer):
    """The policy and the dynamics model in turn, for ``rollout_length`` steps.

    Args:
        dynamics: Single-step model, or the config that trains it.
        reward: Reward model, or the config that trains it.
        rollout_length: Steps of a trajectory (L).
        sample_states: Sample the next state from the chosen elite, or take its mean (the authors' code).
        clip_states: Keep the states within the range of the data, in each dimension (the authors' code).
        next_states: Where a transition's next state comes from: the ``trajectory`` (the paper); the ``dynamics``, once
            more from the transition's own state and action; or ``pessimistic``, of the elites' mean next states the
            one that the learning agent values least.

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
        sample_states: bool = False,
        clip_states: bool = True,
        next_states: Literal["trajectory", "dynamics", "pessimistic"] = "trajectory",
    ) -> None:
        super().__init__()
        at_least(1, rollout_length=rollout_length)
        self.dynamics = module_of(dynamics)
        self.reward = module_of(reward)
        self.rollout_length = rollout_length
        self.sample_states = sample_states
        self.clip_states = clip_states
        self.next_states = next_states

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        low, high = source.load().transitions.state_range()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    @torch.no_grad()
    def synthesize(
        self, policy: Policy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        return self.finish(policy, *self.draft(policy, start_obs, generator), generator), {}

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
        return self.clip(self.dynamics.step(obs, act, generator, self.sample_states))

    def clip(self, obs: Tensor) -> Tensor:
        """States within the range of the data, if ``clip_states`` asks for it."""
        return obs.clamp(self.low, self.high) if self.clip_states else obs

    def finish(
        self, policy: Policy, obs: Tensor, act: Tensor, generator: torch.Generator | None = None
    ) -> Trajectories:
        """Find next states, predict rewards, and cut after the first terminal state.

        A step ends the trajectory by its next state or by the state that the trajectory goes on from.
        """
        next_obs = self.find_next(policy, obs, act, generator)
        before, rule = obs[:, :-1], self.terminated
        terminal = ended(rule, before, act, next_obs) | ended(rule, before, act, obs[:, 1:])
        return Trajectories.cut(obs, act, self.reward(before, act), terminal, next_obs)

    def find_next(self, policy: Policy, obs: Tensor, act: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The transitions' next states ``[N, L, O]`` (``next_states``), for ``obs [N, L + 1, O]`` and their actions."""
        if self.next_states == "trajectory":
            return obs[:, 1:]
        flat_obs, flat_act = obs[:, :-1].flatten(0, 1), act.flatten(0, 1)
        if self.next_states == "dynamics":
            next_obs = self.step(flat_obs, flat_act, generator)
        else:
            next_obs = self.least_valued(cast(Any, policy), flat_obs, flat_act)
        return next_obs.unflatten(0, act.shape[:2])

    def least_valued(self, policy: Any, obs: Tensor, act: Tensor) -> Tensor:
        """Of the elites' mean next states of ``obs [N, O]`` those ``[N, O]`` that the policy values least.

        Raises:
            UserError: The policy has no values: it is not an agent's.
        """
        if not hasattr(policy, "value"):
            raise UserError("Pessimistic next states need an agent's policy: recorded actions value no state.")
        predicted = self.clip(self.dynamics.elite_means(obs, act))
        values = policy.value(predicted.flatten(0, 1)).unflatten(0, predicted.shape[:2])
        count = len(predicted)
        terminal = ended(self.terminated, obs.expand(count, -1, -1), act.expand(count, -1, -1), predicted)
        return predicted[values.masked_fill(terminal, 0.0).argmin(0), torch.arange(len(obs), device=obs.device)]
