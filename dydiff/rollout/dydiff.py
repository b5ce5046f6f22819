"""Dynamics Diffusion (Algorithm 1): the draft's states corrected by the denoiser, its actions by the policy."""

from typing import Literal

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from dydiff.data.episodes import Trajectories
from dydiff.data.source import EpisodeSource
from dydiff.envs.play import Policy
from dydiff.models.denoiser import Denoiser
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.models.edm import EDMSampler
from dydiff.models.reward import RewardModel
from dydiff.rollout.autoregressive import Autoregressive
from dydiff.rollout.base import LearningPolicy, Synthesizer, module_of
from dydiff.utils.errors import UserError, at_least


class DyDiff(Synthesizer):
    """DyDiff: a single-step draft, corrected ``num_corrections`` times: states by the denoiser, actions by the policy.

    The denoiser's window has the states of ``rollout_length`` steps; the state after the last action comes from the
    single-step model, whose error over one step is small.

    Args:
        denoiser: Trajectory denoiser, or the config that trains it.
        dynamics: Single-step model, or the config that trains it.
        reward: Reward model, or the config that trains it.
        rollout_length: Steps of a trajectory (L), up to the denoiser's horizon.
        num_corrections: Corrections (M); 0 leaves the draft.
        state_blend: Share of the denoiser's states in the corrected ones, in (0, 1]; the rest stays as it was. The
            paper uses 1; the authors' code uses 0.5.
        sampler: How the denoiser is sampled; the default is the paper's, from pure noise.
        next_states: Where a transition's next state comes from: the ``trajectory``, whose next state the denoiser has
            made as well (the paper); the single-step ``dynamics`` from the corrected state and action, whose error over
            one step is a tenth; or ``pessimistic``, of the elites' mean next states the one that the learning agent
            values least.
        sample_states: Sample the draft's states, or take the chosen elite's mean (the authors' code).
        clip_states: Keep the states, drafted and corrected, within the range of the data, in each dimension (the
            authors' code).
        max_disagreement: Cut a rollout, without a terminal, from the first step on at which the elites disagree
            (:meth:`DynamicsEnsemble.disagreement`) more than in this share of the dataset's transitions, in (0, 1];
            ``null`` cuts none.
        reward_penalty: Weight of the elites' disagreement that each predicted reward loses (lambda of MOPO, Yu et al.
            2020), not below 0.

    Raises:
        UserError: A rollout longer than the denoiser's horizon, or a setting out of its range.
    """

    def __init__(
        self,
        denoiser: Denoiser | Path_fr,
        dynamics: DynamicsEnsemble | Path_fr,
        reward: RewardModel | Path_fr,
        rollout_length: int = 100,
        num_corrections: int = 2,
        state_blend: float = 1.0,
        sampler: EDMSampler | None = None,
        next_states: Literal["trajectory", "dynamics", "pessimistic"] = "trajectory",
        sample_states: bool = False,
        clip_states: bool = True,
        max_disagreement: float | None = None,
        reward_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        reliability = (next_states, max_disagreement, reward_penalty)
        self.draft = Autoregressive(dynamics, reward, rollout_length, sample_states, clip_states, *reliability)
        self.rollout_length = rollout_length
        self.denoiser = module_of(denoiser)
        if rollout_length > self.denoiser.horizon:
            raise UserError(
                f"rollout_length ({rollout_length}) is longer than the denoiser's horizon ({self.denoiser.horizon}): "
                "shorten the rollout, or train a denoiser with a longer horizon."
            )
        at_least(0, num_corrections=num_corrections)
        if not 0 < state_blend <= 1:
            raise UserError(f"state_blend must be in (0, 1], not {state_blend}.")
        self.num_corrections = num_corrections
        self.state_blend = state_blend
        self.sampler = sampler or EDMSampler()

    @property
    def reward(self) -> RewardModel:
        return self.draft.reward

    def check(self, policy: LearningPolicy) -> None:
        self.draft.check(policy)

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        self.draft.attach(source)

    @torch.no_grad()
    def synthesize(
        self, policy: LearningPolicy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        """See :meth:`Synthesizer.synthesize`.

        The metrics are the root mean square changes of states (in standard deviations of the denoiser's normalizer)
        and actions from each correction to the next.
        """
        obs, act = self.draft.roll_out(policy, start_obs, generator)
        metrics = {}
        for correction in range(1, self.num_corrections + 1):
            corrected_obs, corrected_act = self.correct(policy, obs, act, generator)
            change = (corrected_obs - obs) / self.denoiser.normalizer.scale
            metrics[f"state_change_{correction}"] = change.square().mean((1, 2)).sqrt()
            metrics[f"action_change_{correction}"] = (corrected_act - act).square().mean((1, 2)).sqrt()
            obs, act = corrected_obs, corrected_act
        made, more = self.draft.finish(policy, obs, act, generator)
        return made, metrics | more

    def correct(
        self, policy: Policy, obs: Tensor, act: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """One correction (eq. 7, 8) of states ``[N, L + 1, O]`` and actions ``[N, L, A]``."""
        window = obs[:, :-1]
        sampled = self.denoiser.sample_states(window, act, self.sampler, generator)
        states = self.draft.clip(torch.lerp(window, sampled, self.state_blend))
        actions = policy(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        last = self.draft.step(states[:, -1], actions[:, -1], generator)
        return torch.cat([states, last[:, None]], dim=1), actions
