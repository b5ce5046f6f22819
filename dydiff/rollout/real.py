"""Real data in the place of synthetic ones: the paper's motivating experiment (Fig. 1a, Appendix A)."""

import torch
from torch import Tensor

from dydiff.data.episodes import EpisodeSource, Trajectories
from dydiff.data.split import SplitSource
from dydiff.envs.collect import collect_episodes
from dydiff.errors import UserError
from dydiff.rollout.base import Policy, Synthesizer


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
        collected = collect_episodes(self.task, policy, len(start_obs), seed, device=start_obs.device)
        return Trajectories.single_steps(collected.transitions.to(start_obs.device)), {}


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
