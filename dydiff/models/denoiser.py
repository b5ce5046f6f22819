"""The trajectory denoiser: an EDM over states and actions, conditioned on the first state and all actions."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from dydiff.data.episodes import Episodes, Windows
from dydiff.models.edm import EDMSampler, loss_weight, preconditioning, replace
from dydiff.models.normalizer import Normalizer
from dydiff.models.pretrained import PretrainedModule
from dydiff.models.unet import TemporalUNet


class Denoiser(PretrainedModule):
    """``D(tau, sigma)`` over windows of ``horizon`` steps, trained by eq. 4 with hard replacement (eq. 3).

    Inside, a trajectory is ``[B, H, O + A]`` in normalised units; public methods take raw units.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        horizon: Window length H.
        width: Channels of the U-Net's first level.
        multipliers: Channels of its levels, as multiples of ``width``.
        kernel_size: Of its convolutions.
        sigma_data: Standard deviation of the data that the preconditioning assumes.
        p_mean: Mean of ``ln sigma`` in training.
        p_std: Standard deviation of ``ln sigma`` in training.
        normalization: ``range`` scales states to [-1, 1] (the authors); ``standard`` gives each state dimension the
            standard deviation ``sigma_data``.
        lr: Adam's learning rate.
    """

    mask: Tensor

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        horizon: int = 100,
        width: int = 128,
        multipliers: Sequence[int] = (1, 4, 8),
        kernel_size: int = 5,
        sigma_data: float = 0.5,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        normalization: Literal["range", "standard"] = "range",
        lr: float = 3e-4,
    ) -> None:
        super().__init__(obs_dim, act_dim, lr)
        self.horizon = horizon
        self.sigma_data = sigma_data
        self.p_mean = p_mean
        self.p_std = p_std
        self.normalization = normalization
        self.normalizer = Normalizer(obs_dim)
        self.network = TemporalUNet(obs_dim + act_dim, width, multipliers, kernel_size)
        self.register_buffer("mask", condition_mask(horizon, obs_dim, act_dim), persistent=False)

    def fit_statistics(self, episodes: Episodes) -> None:
        if self.normalization == "range":
            self.normalizer.fit_range(episodes.transitions.obs)
        else:
            self.normalizer.fit_standard(episodes.transitions.obs)
            self.normalizer.scale /= self.sigma_data

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``D(x [B, H, O + A], sigma [B])``: the conditional mean of the clean trajectory."""
        c_skip, c_out, c_in, c_noise = preconditioning(sigma, self.sigma_data)
        output = self.network(c_in[:, None, None] * x, c_noise)
        return c_skip[:, None, None] * x + c_out[:, None, None] * output

    def loss(self, batch: Windows) -> Tensor:
        """Eq. 4 at random noise levels: the weighted squared error of the states ``s_2 .. s_H`` within the episode."""
        sigma = (self.p_mean + self.p_std * torch.randn(len(batch.obs), device=batch.obs.device)).exp()
        return self._loss_at(batch, sigma, torch.randn_like)

    def holdout_metrics(self, batch: Windows) -> dict[str, Tensor]:
        """Eq. 4 at fixed noise: quantiles of the training levels, so that epochs can be compared."""
        count = len(batch.obs)
        generator = torch.Generator(batch.obs.device).manual_seed(0)
        quantile = (torch.arange(count, device=batch.obs.device) + 0.5) / count
        shuffled = quantile[torch.randperm(count, generator=generator, device=quantile.device)]
        sigma = (self.p_mean + self.p_std * torch.special.ndtri(shuffled)).exp()

        def noise_like(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

        return {"loss": self._loss_at(batch, sigma, noise_like)}

    def _loss_at(self, batch: Windows, sigma: Tensor, noise_like: Callable[[Tensor], Tensor]) -> Tensor:
        clean = self._join(batch.obs, batch.act) * batch.valid[..., None]
        noised = replace(clean + sigma[:, None, None] * noise_like(clean), clean, self.mask)
        counted = batch.valid[..., None] & ~self.mask
        error = (self.denoise(noised, sigma) - clean).square() * counted
        return (loss_weight(sigma, self.sigma_data)[:, None, None] * error).sum() / counted.sum()

    def sample_states(
        self, obs: Tensor, act: Tensor, sampler: EDMSampler, generator: torch.Generator | None = None
    ) -> Tensor:
        """States that follow from the first one under the given actions: ``p(s_{2:L} | s_1, a_{1:L})``.

        Args:
            obs: Raw states ``[N, L, O]``: ``obs[:, 0]`` is the condition, the others are the draft.
            act: Actions ``[N, L, A]``.
            sampler: How to sample.
            generator: Source of noise.

        Returns:
            Raw states ``[N, L, O]``, the first one unchanged.
        """
        condition = self._join(obs, act)
        sampled = sampler(self.denoise, condition, self.mask[: obs.shape[1]], generator)
        states = self.normalizer.inverse(sampled[..., : self.obs_dim])
        return torch.cat([obs[:, :1], states[:, 1:]], dim=1)

    def _join(self, obs: Tensor, act: Tensor) -> Tensor:
        return torch.cat([self.normalizer(obs), act], dim=-1)


def condition_mask(horizon: int, obs_dim: int, act_dim: int) -> Tensor:
    """Bool ``[horizon, obs_dim + act_dim]``: true at the first state and at every action."""
    mask = torch.zeros(horizon, obs_dim + act_dim, dtype=torch.bool)
    mask[0] = True
    mask[:, obs_dim:] = True
    return mask
