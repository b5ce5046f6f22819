"""Real data in the place of synthetic ones: the paper's motivating experiment (Fig. 1a, Appendix A), and a control."""

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from dydiff.data.episodes import Trajectories
from dydiff.data.source import EpisodeSource
from dydiff.data.split import SplitSource
from dydiff.data.termination import ended
from dydiff.envs.play import Policy, collect_episodes
from dydiff.envs.real_rollout import real_rollout
from dydiff.models.reward import RewardModel
from dydiff.rollout.base import Synthesizer, module_of
from dydiff.utils.errors import UserError, at_least


class RealEnvironment(Synthesizer):
    """On-policy transitions from the real environment: as many single steps as start states are given.

    Episodes begin with the environment's own reset, not at the start states.
    """

    rollout_length = 1

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        self.task = source.task

    def synthesize(
        self, policy: Policy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        seed = int(torch.randint(2**31, (), generator=generator, device=start_obs.device))
        num_envs = max(1, len(start_obs) // self.task.episode_limit)  # whole episodes, not their beginnings alone
        collected = collect_episodes(self.task, policy, len(start_obs), seed, num_envs, start_obs.device)
        return Trajectories.single_steps(collected.transitions.to(start_obs.device)), {}


class RealRollouts(Synthesizer):
    """The learning policy in the real environment, from the dataset's states: what a method without errors makes.

    A control, for environments whose simulator can be set to a state (MuJoCo's). Rewards are predicted, as everywhere
    else. A velocity that the state shows clipped begins with the clipped value.

    Args:
        reward: Reward model, or the config that trains it.
        rollout_length: Steps of a trajectory (L).
    """

    def __init__(self, reward: RewardModel | Path_fr, rollout_length: int = 100) -> None:
        super().__init__()
        at_least(1, rollout_length=rollout_length)
        self.reward = module_of(reward)
        self.rollout_length = rollout_length

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        self.task = source.task

    @torch.no_grad()
    def synthesize(
        self, policy: Policy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        device = start_obs.device
        played = real_rollout(self.task, start_obs.cpu(), lambda obs: policy(obs.to(device)).cpu(), self.rollout_length)
        obs, act = (value.to(device) for value in played[:2])
        terminal = ended(self.terminated, obs[:, :-1], act, obs[:, 1:])
        return Trajectories.cut(obs, act, self.reward(obs[:, :-1], act), terminal), {}


class HeldBackData(Synthesizer):
    """Transitions of the behaviour policies: drawn from the part of the dataset that the run's split holds back."""

    rollout_length = 1

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        if not isinstance(source, SplitSource):
            raise UserError("HeldBackData needs a dataset of which a part is held back: a SplitSource as data.source.")
        self.held_back = source.held_back().transitions

    def synthesize(
        self, policy: Policy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        count = len(self.held_back.reward)
        rows = torch.randint(count, (len(start_obs),), generator=generator, device=start_obs.device)
        return Trajectories.single_steps(self.held_back.at(rows.cpu()).to(start_obs.device)), {}
