"""The trajectory denoiser: an EDM over states and actions, conditioned on the first state and all actions."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dydiff.data.episodes import Episodes, Windows
from dydiff.models.diffusion import DiffusionModel
from dydiff.models.edm import EDMSampler
from dydiff.models.normalizer import Normalizer
from dydiff.models.unet import TemporalUNet
from dydiff.utils.errors import at_least


class Denoiser(DiffusionModel):
    """The trajectory denoiser ``D(tau, sigma)`` over windows of ``horizon`` steps, trained by eq. 4 (eq. 3).

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
        lr_schedule: ``constant``, or ``cosine``: the learning rate decays to 0 by half a cosine over the training.
    """

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
        lr_schedule: Literal["constant", "cosine"] = "constant",
    ) -> None:
        at_least(1, horizon=horizon)
        network = TemporalUNet(obs_dim + act_dim, width, multipliers, kernel_size)
        super().__init__(obs_dim, act_dim, network, sigma_data, p_mean, p_std, lr, lr_schedule)
        self.horizon = horizon
        self.normalization = normalization
        self.normalizer = Normalizer(obs_dim)
        self.mask = condition_mask(horizon, obs_dim, act_dim)

    def fit_statistics(self, episodes: Episodes) -> None:
        if self.normalization == "range":
            self.normalizer.fit_range(episodes.transitions.obs)
        else:
            self.normalizer.fit_standard(episodes.transitions.obs)
            self.normalizer.scale /= self.sigma_data

    def clean_samples(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """States and actions; steps after the episode's end are zero and do not count."""
        valid = batch.valid[..., None]
        return self._join(batch.obs, batch.act) * valid, valid

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
