"""A temporal U-Net: one-dimensional convolutions over a trajectory's steps (Janner et al. 2022, in EDM's clothes)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.models.networks import NoiseEmbedding
from dydiff.utils.errors import UserError


class _Conv(nn.Sequential):
    """Convolution, group norm, Mish: ``[B, C, T] -> [B, C', T]``."""

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int) -> None:
        super().__init__(
            nn.Conv1d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
            nn.GroupNorm(8, channels_out),
            nn.Mish(),
        )


class _ResidualBlock(nn.Module):
    """Two convolutions with the noise embedding added between them, and a skip connection."""

    def __init__(self, channels_in: int, channels_out: int, embed_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.first = _Conv(channels_in, channels_out, kernel_size)
        self.second = _Conv(channels_out, channels_out, kernel_size)
        self.embed = nn.Sequential(nn.Mish(), nn.Linear(embed_dim, channels_out))
        self.skip = nn.Conv1d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(x) + self.embed(embedding)[:, :, None]
        return self.second(h) + self.skip(x)


class _Level(nn.Module):
    """Two residual blocks at one resolution."""

    def __init__(self, channels_in: int, channels_out: int, embed_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.first = _ResidualBlock(channels_in, channels_out, embed_dim, kernel_size)
        self.second = _ResidualBlock(channels_out, channels_out, embed_dim, kernel_size)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.second(self.first(x, embedding), embedding)


class TemporalUNet(nn.Module):
    """Trajectories to trajectories of the same shape, given a noise level.

    Args:
        dim: Features of a step (state and action).
        width: Channels of the first level; a multiple of 8.
        multipliers: Channels of each level, as multiples of ``width``; the time axis halves between levels.
        kernel_size: Of the convolutions over time; odd.

    Raises:
        UserError: ``width`` or ``kernel_size`` are not such numbers.
    """

    def __init__(
        self, dim: int, width: int = 128, multipliers: Sequence[int] = (1, 4, 8), kernel_size: int = 5
    ) -> None:
        super().__init__()
        if width % 8 or width < 8:
            raise UserError(f"width must be a multiple of 8, not {width}.")
        if kernel_size % 2 == 0:
            raise UserError(f"kernel_size must be odd, not {kernel_size}.")
        channels = [width * multiplier for multiplier in multipliers]
        self.stride = 2 ** (len(channels) - 1)
        self.embed = NoiseEmbedding(width, scale=1000.0)  # c_noise = ln(sigma) / 4 spans about [-2, 1]

        def level(channels_in: int, channels_out: int) -> _Level:
            return _Level(channels_in, channels_out, width, kernel_size)

        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        last = dim
        for depth, size in enumerate(channels, start=1):
            self.down.append(level(last, size))
            deepest = depth == len(channels)
            self.shrink.append(nn.Identity() if deepest else nn.Conv1d(size, size, 3, stride=2, padding=1))
            last = size
        self.middle = level(last, last)
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for size, above in zip(channels[:0:-1], channels[-2::-1], strict=True):
            self.up.append(level(2 * size, above))
            self.grow.append(nn.ConvTranspose1d(above, above, 4, stride=2, padding=1))
        self.out = nn.Sequential(_Conv(width, width, kernel_size), nn.Conv1d(width, dim, 1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``x [B, T, dim]`` and ``noise [B]`` to ``[B, T, dim]``, for any ``T``."""
        steps = x.shape[1]
        h = F.pad(x.transpose(1, 2), (0, -steps % self.stride), mode="replicate")
        embedding = self.embed(noise)
        skips = []
        for level, shrink in zip(self.down, self.shrink, strict=True):
            skips.append(level(h, embedding))
            h = shrink(skips[-1])
        h = self.middle(h, embedding)
        for level, grow in zip(self.up, self.grow, strict=True):
            h = grow(level(torch.cat([h, skips.pop()], dim=1), embedding))
        return self.out(h)[:, :, :steps].transpose(1, 2)
