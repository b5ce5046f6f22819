"""Real data in the place of synthetic ones: the paper's motivating experiment (Fig. 1a), and two controls."""

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from dydiff.data.episodes import Trajectories
from dydiff.data.source import EpisodeSource
from dydiff.data.split import SplitSource
from dydiff.data.termination import ended
from dydiff.envs.play import collect_episodes
from dydiff.envs.real_rollout import real_next_states, real_rollout
from dydiff.models.reward import RewardModel
from dydiff.rollout.base import LearningPolicy, Synthesizer, module_of
from dydiff.utils.errors import UserError, at_least


class RealEnvironment(Synthesizer):
    """A control: on-policy steps in the real environment, as many as start states are given.

    Episodes begin with the environment's own reset, not at the start states.
    """

    rollout_length = 1

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        self.task = source.task

    def synthesize(
        self, policy: LearningPolicy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        seed = int(torch.randint(2**31, (), generator=generator, device=start_obs.device))
        num_envs = max(1, len(start_obs) // self.task.episode_limit)  # complete episodes, not only their first steps
        collected = collect_episodes(self.task, policy, len(start_obs), seed, num_envs, start_obs.device)
        return Trajectories.single_steps(collected.transitions.to(start_obs.device)), {}


class RealRollouts(Synthesizer):
    """A control: the learning policy in the real environment, from the dataset's states, without model errors.

    A control, for environments whose simulator can be set to a state (MuJoCo's). Rewards are predicted, as everywhere
    else. A velocity that the state shows clipped starts from the clipped value.

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
        self, policy: LearningPolicy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        device = start_obs.device
        played = real_rollout(self.task, start_obs.cpu(), lambda obs: policy(obs.to(device)).cpu(), self.rollout_length)
        obs, act = (value.to(device) for value in played[:2])
        terminal = ended(self.terminated, obs[:, :-1], act, obs[:, 1:])
        return Trajectories.cut(obs, act, self.reward(obs[:, :-1], act), terminal), {}


class RealTransitions(Synthesizer):
    """A control: another synthesizer's states, actions and rewards, with the real next states and terminals.

    A control, for environments whose simulator can be set to a state (MuJoCo's): it shows whether wrong transitions or
    unlikely states make synthetic data worse than real ones. The valid steps stay those of the other synthesizer, so
    that both give the same states, actions and returns; a step after a terminal one may be valid here. A velocity that
    the state shows clipped starts from the clipped value.

    Args:
        synthesizer: The other synthesizer.
    """

    def __init__(self, synthesizer: Synthesizer) -> None:
        super().__init__()
        self.synthesizer = synthesizer
        self.rollout_length = synthesizer.rollout_length

    def check(self, policy: LearningPolicy) -> None:
        self.synthesizer.check(policy)

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        self.synthesizer.attach(source)
        self.task = source.task

    @torch.no_grad()
    def synthesize(
        self, policy: LearningPolicy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        made, metrics = self.synthesizer.synthesize(policy, start_obs, generator)
        valid = made.valid & made.obs[:, :-1].isfinite().all(-1) & made.act.isfinite().all(-1)
        obs, act = made.obs[:, :-1][valid], made.act[valid]
        followed = real_next_states(self.task, obs.cpu(), act.cpu()).to(obs.device)
        next_obs, terminal = made.next_obs.clone(), made.terminal.clone()
        next_obs[valid], terminal[valid] = followed, ended(self.terminated, obs, act, followed)
        return made._replace(next_obs=next_obs, terminal=terminal), metrics


class HeldBackData(Synthesizer):
    """A control: transitions of the behaviour policies, from the data that the run's split holds back."""

    rollout_length = 1

    def attach(self, source: EpisodeSource) -> None:
        super().attach(source)
        if not isinstance(source, SplitSource):
            raise UserError("HeldBackData needs a dataset of which a part is held back: a SplitSource as data.source.")
        self.held_back = source.held_back().transitions

    def synthesize(
        self, policy: LearningPolicy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        count = len(self.held_back.reward)
        rows = torch.randint(count, (len(start_obs),), generator=generator, device=start_obs.device)
        return Trajectories.single_steps(self.held_back.at(rows.cpu()).to(start_obs.device)), {}
