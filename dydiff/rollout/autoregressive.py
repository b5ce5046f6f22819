"""Rollouts by only the single-step model (eq. 6): MBPO's, and the draft that DyDiff corrects."""

from typing import Literal

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from dydiff.data.episodes import Trajectories, Transitions
from dydiff.data.source import EpisodeSource
from dydiff.data.termination import ended
from dydiff.envs.play import Policy
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.models.reward import RewardModel
from dydiff.rollout.base import LearningPolicy, Synthesizer, module_of
from dydiff.utils.errors import UserError, at_least


class Autoregressive(Synthesizer):
    """Single-step rollouts: the policy and the dynamics model in turn, for ``rollout_length`` steps.

    Args:
        dynamics: Single-step model, or the config that trains it.
        reward: Reward model, or the config that trains it.
        rollout_length: Steps of a trajectory (L).
        sample_states: Sample the next state from the chosen elite, or take its mean (the authors' code).
        clip_states: Keep the states within the range of the data, in each dimension (the authors' code).
        next_states: Where a transition's next state comes from: the ``trajectory`` (the paper); the ``dynamics``, once
            more from the transition's own state and action; or ``pessimistic``, of the elites' mean next states the
            one that the learning agent values least.
        max_disagreement: Cut a rollout, without a terminal, from the first step on at which the elites disagree
            (:meth:`DynamicsEnsemble.disagreement`) more than in this share of the dataset's transitions, in (0, 1];
            ``null`` cuts none.
        reward_penalty: Weight of the elites' disagreement that each predicted reward loses (lambda of MOPO, Yu et al.
            2020), not below 0.

    Raises:
        UserError: A setting out of its range.
    """

    low: Tensor
    high: Tensor
    disagreement_limit: Tensor

    def __init__(
        self,
        dynamics: DynamicsEnsemble | Path_fr,
        reward: RewardModel | Path_fr,
        rollout_length: int = 100,
        sample_states: bool = False,
        clip_states: bool = True,
        next_states: Literal["trajectory", "dynamics", "pessimistic"] = "trajectory",
        max_disagreement: float | None = None,
        reward_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, rollout_length=rollout_length)
        at_least(0, reward_penalty=reward_penalty)
        if max_disagreement is not None and not 0 < max_disagreement <= 1:
            raise UserError(f"max_disagreement must be in (0, 1], not {max_disagreement}.")
        self.dynamics = module_of(dynamics)
        self.reward = module_of(reward)
        self.rollout_length = rollout_length
        self.sample_states = sample_states
        self.clip_states = clip_states
        self.next_states = next_states
        self.max_disagreement = max_disagreement
        self.reward_penalty = reward_penalty
        for name, unlimited in (("low", -torch.inf), ("high", torch.inf), ("disagreement_limit", torch.inf)):
            self.register_buffer(name, torch.tensor(unlimited), persistent=False)

    def check(self, policy: LearningPolicy) -> None:
        if self.next_states == "pessimistic":
            with torch.no_grad():
                policy.value(torch.zeros(1, self.dynamics.obs_dim))

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        data = source.load().transitions
        self.low, self.high = data.state_range()
        if self.max_disagreement is not None:
            self.disagreement_limit = disagreement_quantile(self.dynamics, data, self.max_disagreement)

    @torch.no_grad()
    def synthesize(
        self, policy: LearningPolicy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        return self.finish(policy, *self.roll_out(policy, start_obs, generator), generator)

    def roll_out(
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
        """States within the range of the data, if ``clip_states`` is set."""
        return obs.clamp(self.low, self.high) if self.clip_states else obs

    def finish(
        self, policy: LearningPolicy, obs: Tensor, act: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        """Find next states, predict rewards, and cut after the first terminal state and where elites disagree.

        A step ends the trajectory by its next state or by the trajectory's own, which then is the one stored. The
        metric ``cut_share`` is 1 for the trajectories cut by the elites' disagreement; ``reward_penalty`` is what a
        trajectory's valid rewards have lost by it, on average.
        """
        next_obs = self.find_next(policy, obs, act, generator)
        before, rule = obs[:, :-1], self.terminated
        terminal, fell = (ended(rule, before, act, states) for states in (next_obs, obs[:, 1:]))
        next_obs = next_obs.where((terminal | ~fell)[..., None], obs[:, 1:])
        terminal = terminal | fell
        made = Trajectories.cut(obs, act, self.reward(before, act), terminal, next_obs)
        figures: dict[str, Tensor] = {}
        if self.max_disagreement is None and not self.reward_penalty:
            return made, figures
        disagreement = self.dynamics.disagreement(before.flatten(0, 1), act.flatten(0, 1)).unflatten(0, act.shape[:2])
        if self.max_disagreement is not None:
            reliable = (disagreement <= self.disagreement_limit).cumprod(1).bool()
            figures["cut_share"] = (made.valid & ~reliable).any(1).float()
            made = made._replace(valid=made.valid & reliable)
        if self.reward_penalty:
            penalty = self.reward_penalty * disagreement
            figures["reward_penalty"] = (penalty * made.valid).sum(1) / made.lengths.clamp(min=1)
            made = made._replace(reward=made.reward - penalty)
        return made, figures

    def find_next(
        self, policy: LearningPolicy, obs: Tensor, act: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The transitions' next states ``[N, L, O]`` (``next_states``), for ``obs [N, L + 1, O]`` and their actions."""
        if self.next_states == "trajectory":
            return obs[:, 1:]
        flat_obs, flat_act = obs[:, :-1].flatten(0, 1), act.flatten(0, 1)
        if self.next_states == "dynamics":
            next_obs = self.step(flat_obs, flat_act, generator)
        else:
            next_obs = self.least_valued(policy, flat_obs, flat_act)
        return next_obs.unflatten(0, act.shape[:2])

    def least_valued(self, policy: LearningPolicy, obs: Tensor, act: Tensor) -> Tensor:
        """Of the elites' mean next states of ``obs [N, O]`` those ``[N, O]`` that the policy values least."""
        predicted = self.clip(self.dynamics.elite_means(obs, act))
        values = policy.value(predicted.flatten(0, 1)).unflatten(0, predicted.shape[:2])
        count = len(predicted)
        terminal = ended(self.terminated, obs.expand(count, -1, -1), act.expand(count, -1, -1), predicted)
        return predicted[values.masked_fill(terminal, 0.0).argmin(0), torch.arange(len(obs), device=obs.device)]


@torch.no_grad()
def disagreement_quantile(dynamics: DynamicsEnsemble, data: Transitions, share: float, count: int = 20_000) -> Tensor:
    """The disagreement of the elites that ``share`` of ``count`` random transitions of a dataset do not exceed."""
    chosen = torch.randperm(len(data.reward), generator=torch.Generator().manual_seed(0))[:count]
    return dynamics.disagreement(data.obs[chosen], data.act[chosen]).quantile(share)
