"""A temporal U-Net: one-dimensional convolutions over a trajectory's steps (Janner et al. 2022, in EDM's clothes)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class _NoiseEmbedding(nn.Module):
    """Sinusoidal features of ``c_noise [B]``, then two linear layers: ``[B, dim]``."""

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        # c_noise = ln(sigma) / 4 spans about [-2, 1]; 1000 brings it to the range of the usual timestep features.
        exponents = torch.linspace(0, math.log(10_000), dim // 2)
        self.register_buffer("frequencies", 1000 * torch.exp(-exponents), persistent=False)
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))

    def forward(self, noise: Tensor) -> Tensor:
        angles = noise[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class TemporalUNet(nn.Module):
    """Trajectories to trajectories of the same shape, given a noise level.

    Args:
        dim: Features of a step (state and action).
        width: Channels of the first level; a multiple of 8.
        multipliers: Channels of each level, as multiples of ``width``; the time axis halves between levels.
        kernel_size: Of the convolutions over time; odd.
    """

    def __init__(
        self, dim: int, width: int = 128, multipliers: Sequence[int] = (1, 4, 8), kernel_size: int = 5
    ) -> None:
        super().__init__()
        channels = [width * multiplier for multiplier in multipliers]
        self.stride = 2 ** (len(channels) - 1)
        self.embed = _NoiseEmbedding(width)

        def block(channels_in: int, channels_out: int) -> _ResidualBlock:
            return _ResidualBlock(channels_in, channels_out, width, kernel_size)

        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        last = dim
        for level, size in enumerate(channels):
            self.down.append(nn.ModuleList([block(last, size), block(size, size)]))
            deepest = level == len(channels) - 1
            self.shrink.append(nn.Identity() if deepest else nn.Conv1d(size, size, 3, stride=2, padding=1))
            last = size
        self.middle = nn.ModuleList([block(last, last), block(last, last)])
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for size, above in zip(channels[:0:-1], channels[-2::-1], strict=True):
            self.up.append(nn.ModuleList([block(2 * size, above), block(above, above)]))
            self.grow.append(nn.ConvTranspose1d(above, above, 4, stride=2, padding=1))
        self.out = nn.Sequential(_Conv(width, width, kernel_size), nn.Conv1d(width, dim, 1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``x [B, T, dim]`` and ``noise [B]`` to ``[B, T, dim]``, for any ``T``."""
        steps = x.shape[1]
        h = F.pad(x.transpose(1, 2), (0, -steps % self.stride), mode="replicate")
        embedding = self.embed(noise)
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, embedding)
            skips.append(h)
            h = shrink(h)
        for block in self.middle:
            h = block(h, embedding)
        for blocks, grow in zip(self.up, self.grow, strict=True):
            h = torch.cat([h, skips.pop()], dim=1)
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, embedding)
            h = grow(h)
        return self.out(h)[:, :, :steps].transpose(1, 2)
