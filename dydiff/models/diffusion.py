"""What the diffusion models share: EDM's preconditioned denoiser and its loss (Karras et al. 2022)."""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dydiff.models.base import PretrainedModule
from dydiff.models.edm import loss_weight, preconditioning, replace
from dydiff.utils import distributed


class DiffusionModel(PretrainedModule, ABC):
    """``D(x, sigma)`` over samples ``x [B, ...]`` in normalised units.

    A subclass makes the network, and ``clean_samples``: what a batch's samples are and which of their entries count.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        network: Maps ``x [B, ...]`` and ``c_noise [B]`` to the shape of ``x``.
        sigma_data: Standard deviation of the data that the preconditioning assumes.
        p_mean: Mean of ``ln sigma`` in training.
        p_std: Standard deviation of ``ln sigma`` in training.
        lr: Adam's learning rate.
        lr_schedule: See :class:`PretrainedModule`.

    Attributes:
        mask: Bool, broadcastable to a sample, true where an entry is a condition: never noised, never in the loss.
    """

    mask: Tensor

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        network: nn.Module,
        sigma_data: float,
        p_mean: float,
        p_std: float,
        lr: float,
        lr_schedule: Literal["constant", "cosine"],
    ) -> None:
        super().__init__(obs_dim, act_dim, lr, lr_schedule)
        self.network = network
        self.sigma_data = sigma_data
        self.p_mean = p_mean
        self.p_std = p_std
        self.register_buffer("mask", torch.zeros((), dtype=torch.bool), persistent=False)

    @abstractmethod
    def clean_samples(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Samples ``[B, ...]`` in normalised units, and bool, broadcastable to them: data, not padding."""

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``D(x [B, ...], sigma [B])``: the conditional mean of the clean sample."""
        levels = sigma.reshape(-1, *[1] * (x.ndim - 1))
        c_skip, c_out, c_in, c_noise = preconditioning(levels, self.sigma_data)
        return c_skip * x + c_out * self.network(c_in * x, c_noise.flatten())

    def loss(self, batch: Any) -> Tensor:
        """The weighted squared error at random noise levels (eq. 4)."""
        clean, valid = self.clean_samples(batch)
        normal = partial(distributed.draw, torch.randn, device=clean.device)
        sigma = (self.p_mean + self.p_std * normal(clean.shape[:1])).exp()
        return self._loss_at(clean, valid, sigma, normal(clean.shape))

    def holdout_metrics(self, batch: Any) -> dict[str, Tensor]:
        """The loss at fixed noise: quantiles of the training levels, so that epochs can be compared."""
        clean, valid = self.clean_samples(batch)
        count = len(clean)
        generator = torch.Generator(clean.device).manual_seed(0)
        quantile = (torch.arange(count, device=clean.device) + 0.5) / count
        shuffled = quantile[torch.randperm(count, generator=generator, device=quantile.device)]
        sigma = (self.p_mean + self.p_std * torch.special.ndtri(shuffled)).exp()
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        return {"loss": self._loss_at(clean, valid, sigma, noise)}

    def _loss_at(self, clean: Tensor, valid: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        levels = sigma.reshape(-1, *[1] * (clean.ndim - 1))
        noised = replace(clean + levels * noise, clean, self.mask)
        counted = (valid & ~self.mask).expand_as(clean)
        error = (self.denoise(noised, sigma) - clean).square() * counted
        (count,) = distributed.mean([counted.sum()])
        return (loss_weight(levels, self.sigma_data) * error).sum() / count
