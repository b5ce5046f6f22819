"""SynthER (Lu et al. 2023): upsample the dataset with a diffusion model over transitions. The policy plays no part."""

from typing import Literal

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from dydiff.data.episodes import Trajectories
from dydiff.data.termination import ended
from dydiff.models.edm import EDMSampler
from dydiff.models.transition_diffusion import TransitionDiffusion
from dydiff.rollout.base import LearningPolicy, Synthesizer, module_of


class SynthER(Synthesizer):
    """SynthER (Lu et al. 2023): diffused transitions, as many as start states are given; the policy does not matter.

    Args:
        diffusion: Transition diffusion, or the config that trains it.
        sampler: How it is sampled; ``null`` uses SynthER's: 128 steps, churn 80 between 0.05 and 50.
        terminals: Which transitions end their episode: as the diffusion made them (``modelled``, SynthER's), which
            misses most of the ends where they are rare, or by the task's termination ``rule``, which the other
            synthesizers go by.
    """

    rollout_length = 1

    def __init__(
        self,
        diffusion: TransitionDiffusion | Path_fr,
        sampler: EDMSampler | None = None,
        terminals: Literal["modelled", "rule"] = "modelled",
    ) -> None:
        super().__init__()
        self.diffusion = module_of(diffusion)
        self.sampler = sampler or EDMSampler(num_steps=128, s_churn=80.0, s_min=0.05, s_max=50.0, s_noise=1.003)
        self.terminals = terminals

    @torch.no_grad()
    def synthesize(
        self, policy: LearningPolicy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        made = self.diffusion.sample(len(start_obs), self.sampler, generator)
        if self.terminals == "rule":
            made = made._replace(terminal=ended(self.terminated, made.obs, made.act, made.next_obs))
        return Trajectories.single_steps(made), {}
