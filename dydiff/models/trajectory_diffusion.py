"""A diffusion model over complete trajectories of the behaviour policy: PGD's (Jackson et al. 2024)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dydiff.data.episodes import Episodes, Windows
from dydiff.models.diffusion import DiffusionModel
from dydiff.models.normalizer import Normalizer
from dydiff.models.unet import TemporalUNet


class TrajectoryDiffusion(DiffusionModel):
    """PGD's ``p(s, a, r, terminal)`` over windows of ``horizon`` steps; all but the terminal is standardised.

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
        lr: Adam's learning rate.
        lr_schedule: ``constant``, or ``cosine``: the learning rate decays to 0 by half a cosine over the training.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        horizon: int = 32,
        width: int = 128,
        multipliers: Sequence[int] = (1, 4, 8),
        kernel_size: int = 5,
        sigma_data: float = 1.0,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        lr: float = 3e-4,
        lr_schedule: Literal["constant", "cosine"] = "constant",
    ) -> None:
        dim = obs_dim + act_dim + 2
        network = TemporalUNet(dim, width, multipliers, kernel_size)
        super().__init__(obs_dim, act_dim, network, sigma_data, p_mean, p_std, lr, lr_schedule)
        self.horizon = horizon
        self.normalizer = Normalizer(dim)

    def fit_statistics(self, episodes: Episodes) -> None:
        obs, act, reward, _, terminal = episodes.transitions.columns()
        self.normalizer.fit_standard(obs, act, reward, terminal, floor=1e-6)
        self.normalizer.shift[-1], self.normalizer.scale[-1] = 0.0, 1.0

    def clean_samples(self, batch: Windows) -> tuple[Tensor, Tensor]:
        steps = torch.cat([batch.obs, batch.act, batch.reward[..., None], batch.terminal[..., None].float()], dim=-1)
        valid = batch.valid[..., None]
        return self.normalizer(steps) * valid, valid

    def split(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raw states ``[B, H, O]``, actions ``[B, H, A]``, rewards and terminals ``[B, H]`` of normalised samples."""
        sizes = (self.obs_dim, self.act_dim, 1, 1)
        obs, act, reward, terminal = self.normalizer.inverse(samples).split(sizes, dim=-1)
        return obs, act, reward[..., 0], terminal[..., 0]
