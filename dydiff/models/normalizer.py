"""Affine normalizers as modules: their statistics are buffers and travel with the weights."""

import torch
from torch import Tensor, nn


class Normalizer(nn.Module):
    """``normalize(x) = (x - shift) / scale``, the identity until fitted.

    Args:
        dim: Size of the last dimension.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit_standard(self, *columns: Tensor, floor: float = 1e-3) -> None:
        """Zero mean and unit standard deviation over ``N`` rows; ``floor`` is added to the deviation.

        Args:
            columns: ``[N, d]`` each, side by side ``[N, dim]``; joining them here would copy the dataset.
            floor: Least deviation.
        """
        mean, std = torch.cat([x.mean(0) for x in columns]), torch.cat([x.std(0, correction=0) for x in columns])
        self.set_standard(mean, std, floor)

    def set_standard(self, mean: Tensor, std: Tensor, floor: float = 1e-3) -> None:
        """As :meth:`fit_standard`, by known mean and standard deviation, ``[dim]`` each."""
        self.shift.copy_(mean)
        self.scale.copy_(std + floor)

    def fit_range(self, x: Tensor) -> None:
        """``x [N, dim]`` to [-1, 1]; a constant dimension maps to 0."""
        low, high = x.amin(0), x.amax(0)
        self.shift.copy_((low + high) / 2)
        self.scale.copy_(torch.where(high > low, (high - low) / 2, torch.ones_like(high)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale

    def inverse(self, x: Tensor) -> Tensor:
        """Back to raw units."""
        return x * self.scale + self.shift
