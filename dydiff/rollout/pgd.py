"""Policy-guided diffusion (Jackson et al. 2024): the behaviour's trajectories, moved towards the learning policy's."""

import math

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from dydiff.data.episodes import Trajectories
from dydiff.models.edm import EDMSampler
from dydiff.models.trajectory_diffusion import TrajectoryDiffusion
from dydiff.rollout.base import LearningPolicy, Synthesizer, module_of
from dydiff.utils.errors import at_least


class PGD(Synthesizer):
    """Policy-guided diffusion (Jackson et al. 2024): diffused trajectories; the sampler follows ``log pi(a | s)``.

    The gradient is taken at the denoised trajectory, only with respect to its actions, and scaled to unit length.
    Step ``i`` of ``N`` follows it by ``guidance (1 - i / N + cosine_guidance sin(pi (i + 1) / N))``,
    the last step not at all.
    States start where the model puts them: the start states that are given only say how many.

    Args:
        diffusion: Trajectory diffusion, or the config that trains it.
        guidance: Strength of the guidance; 0 gives the behaviour's trajectories.
        cosine_guidance: Share of it that swells in the middle of the sampling.
        sampler: How the model is sampled; ``null`` uses PGD's: 256 steps, churn 80 between 0.05 and 50.

    Raises:
        UserError: A negative setting.
    """

    def __init__(
        self,
        diffusion: TrajectoryDiffusion | Path_fr,
        guidance: float = 1.0,
        cosine_guidance: float = 0.3,
        sampler: EDMSampler | None = None,
    ) -> None:
        super().__init__()
        at_least(0, guidance=guidance, cosine_guidance=cosine_guidance)
        self.diffusion = module_of(diffusion)
        self.guidance = guidance
        self.cosine_guidance = cosine_guidance
        self.sampler = sampler or EDMSampler(num_steps=256, s_churn=80.0, s_min=0.05, s_max=50.0, s_noise=1.003)
        self.rollout_length = self.diffusion.horizon - 1

    @torch.no_grad()
    def synthesize(
        self, policy: LearningPolicy, start_obs: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        """See :meth:`Synthesizer.synthesize`; the metric is the mean log-density of the actions, up to a constant."""
        model = self.diffusion
        empty = torch.zeros(len(start_obs), model.horizon, model.normalizer.shift.numel(), device=start_obs.device)

        def guide(x: Tensor, sigma: float, step: int) -> Tensor:
            return self._follow(policy, x, sigma, step)

        samples = self.sampler(model.denoise, empty, model.mask, generator, guide=guide if self.guidance > 0 else None)
        obs, act, reward, terminal = model.split(samples)
        act = act.clamp(-1, 1)
        likelihood = policy.log_prob(obs.flatten(0, 1), act.flatten(0, 1)).unflatten(0, obs.shape[:2])
        made = Trajectories.cut(obs, act[:, :-1], reward[:, :-1], terminal[:, :-1] > 0.5)
        return made, {"log_prob": likelihood.mean(1)}

    def _follow(self, policy: LearningPolicy, x: Tensor, sigma: float, step: int) -> Tensor:
        model, total = self.diffusion, self.sampler.num_steps
        schedule = 1 - step / total + self.cosine_guidance * math.sin(math.pi * (step + 1) / total)
        obs, act, _, _ = model.split(model.denoise(x, torch.full((len(x),), sigma, device=x.device)))
        with torch.enable_grad():
            act = act.clamp(-1, 1).requires_grad_()
            likelihood = policy.log_prob(obs.flatten(0, 1), act.flatten(0, 1)).sum()
            (gradient,) = torch.autograd.grad(likelihood, act)
        actions = slice(model.obs_dim, model.obs_dim + model.act_dim)
        gradient = gradient * model.normalizer.scale[actions]  # in the model's units
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-8)[:, None, None]
        moved = x.clone()
        moved[..., actions] += self.guidance * schedule * gradient / length
        return moved
