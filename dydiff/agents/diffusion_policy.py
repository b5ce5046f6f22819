"""A diffusion policy over single actions with the variance-preserving schedule (Wang et al. 2023)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dydiff.models.networks import Mish, NoiseEmbedding, mlp
from dydiff.utils import distributed


class VPSchedule(nn.Module):
    """``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise`` in ``num_steps`` steps of the discretised VP process.

    Steps count from 0, the cleanest.

    Args:
        num_steps: Steps of the diffusion.
        beta_min: Rate of noise at its beginning.
        beta_max: Rate of noise at its end.
    """

    alpha_bar: Tensor
    clean_share: Tensor
    noised_share: Tensor
    posterior_std: Tensor

    def __init__(self, num_steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> None:
        super().__init__()
        step = torch.arange(1, num_steps + 1, dtype=torch.float64)
        rate = beta_min / num_steps + (beta_max - beta_min) * (2 * step - 1) / (2 * num_steps**2)
        alpha = torch.exp(-rate)
        alpha_bar = alpha.cumprod(0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        left = 1 - alpha_bar
        buffers = {
            "alpha_bar": alpha_bar,
            "clean_share": previous.sqrt() * (1 - alpha) / left,
            "noised_share": alpha.sqrt() * (1 - previous) / left,
            "posterior_std": ((1 - alpha) * (1 - previous) / left).sqrt(),
        }
        for name, values in buffers.items():
            self.register_buffer(name, values.float(), persistent=False)

    def add_noise(self, x: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """``x_t`` of clean ``x [N, A]`` at steps ``[N]``."""
        share = self.alpha_bar[step][:, None]
        return share.sqrt() * x + (1 - share).sqrt() * noise

    def remove_noise(self, noised: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """The clean ``x`` that :meth:`add_noise` turned into ``noised``."""
        share = self.alpha_bar[step][:, None]
        return (noised - (1 - share).sqrt() * noise) / share.sqrt()

    def posterior(self, clean: Tensor, noised: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[N, A]`` and standard deviation ``[N, 1]`` of ``x_{t-1}`` given ``x_0`` and ``x_t``."""
        mean = self.clean_share[step][:, None] * clean + self.noised_share[step][:, None] * noised
        return mean, self.posterior_std[step][:, None]


class DiffusionPolicy(nn.Module):
    """Predicts the noise in an action; its states are normalised.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers.
        num_steps: Steps of the diffusion.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int], num_steps: int) -> None:
        super().__init__()
        self.act_dim = act_dim
        self.num_steps = num_steps
        self.schedule = VPSchedule(num_steps)
        self.step_embedding = NoiseEmbedding(16, scale=1.0)
        self.network = mlp((act_dim + 16 + obs_dim, *hidden_sizes, act_dim), Mish)

    def predict_noise(self, obs: Tensor, noised: Tensor, step: Tensor) -> Tensor:
        """Noise ``[N, A]`` in actions ``noised [N, A]`` at steps ``[N]``."""
        return self.network(torch.cat([noised, self.step_embedding(step.float()), obs], dim=-1))

    def predict_x0(self, obs: Tensor, noised: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted noise, and the clean action that it leaves, clipped to [-1, 1]."""
        noise = self.predict_noise(obs, noised, step)
        return noise, self.schedule.remove_noise(noised, step, noise).clamp(-1, 1)

    def sample(self, obs: Tensor, noises: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Actions ``[N, A]`` by all steps of the reverse process, differentiable.

        Args:
            obs: Normalised states ``[N, O]``.
            noises: The process's noise, ``[num_steps, N, A]``; ``None`` draws it.
            generator: Draws it.
        """
        if noises is None:
            shape = (self.num_steps, len(obs), self.act_dim)
            noises = distributed.draw(
                torch.randn, shape, dim=1, generator=generator, dtype=obs.dtype, device=obs.device
            )
        x = noises[-1]
        for level in range(self.num_steps - 1, -1, -1):
            step = torch.full((len(obs),), level, device=obs.device)
            mean, std = self.schedule.posterior(self.predict_x0(obs, x, step)[1], x, step)
            x = mean + std * noises[level - 1] if level > 0 else mean
        return x.clamp(-1, 1)
