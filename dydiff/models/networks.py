"""Perceptrons, one or several at once, and the embedding of noise levels."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.utils.errors import at_least


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A perceptron with ``sizes = (input, hidden..., output)`` and no activation at its end."""
    at_least(1, **{"a layer's size": min(sizes)})
    layers: list[nn.Module] = []
    for size_in, size_out in pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), activation()]
    return nn.Sequential(*layers[:-1])


class Mish(nn.Module):
    """``x tanh(softplus(x))``; compiled, by one exponential and a division in the place of three slow functions."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return F.mish(x)
        exponential = x.clamp(max=20.0).exp()  # beyond, the factor is 1 in float32
        part = exponential * (exponential + 2)
        return x * (part / (part + 2))


class EnsembleLinear(nn.Module):
    """``num_members`` linear layers as one batched matrix product, initialised as :class:`torch.nn.Linear` is.

    Args:
        num_members: Independent layers.
        size_in: Input features.
        size_out: Output features.
    """

    def __init__(self, num_members: int, size_in: int, size_out: int) -> None:
        super().__init__()
        bound = size_in**-0.5
        self.weight = nn.Parameter(torch.empty(num_members, size_in, size_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_members, 1, size_out).uniform_(-bound, bound))

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """``x [M, B, size_in]`` to ``[M, B, size_out]``; ``members [M]`` picks layers, ``None`` uses all."""
        if members is None:
            return torch.baddbmm(self.bias, x, self.weight)
        return torch.baddbmm(self.bias[members], x, self.weight[members])


class EnsembleMLP(nn.Module):
    """``num_members`` perceptrons evaluated together.

    Args:
        num_members: Independent networks.
        sizes: ``(input, hidden..., output)``.
        activation: Between layers.
    """

    def __init__(self, num_members: int, sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        at_least(1, **{"a layer's size": min(sizes)})
        pairs = pairwise(sizes)
        self.layers = nn.ModuleList(EnsembleLinear(num_members, size_in, size_out) for size_in, size_out in pairs)
        self.activation = activation()

    def select(self, members: Tensor) -> "EnsembleMLP":
        """A copy that has only the perceptrons at ``members [M]``, frozen."""
        chosen = deepcopy(self).requires_grad_(False)
        for layer in chosen.layers:
            assert isinstance(layer, EnsembleLinear)
            layer.weight = nn.Parameter(layer.weight[members], requires_grad=False)
            layer.bias = nn.Parameter(layer.bias[members], requires_grad=False)
        return chosen

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """``x [M, B, input]`` to ``[M, B, output]``; see :meth:`EnsembleLinear.forward`."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x, members))
        return self.layers[-1](x, members)


def begin_near_zero(network: nn.Module, bound: float) -> None:
    """Weights of a perceptron or an ensemble whose outputs begin near 0 (as EDAC's and ReBRAC's authors have them).

    Hidden biases are 0.1; weights and biases of the last layer are uniform within ``bound``.
    """
    *hidden, last = (layer for layer in network.modules() if isinstance(layer, (nn.Linear, EnsembleLinear)))
    for layer in hidden:
        nn.init.constant_(layer.bias, 0.1)
    nn.init.uniform_(last.weight, -bound, bound)
    nn.init.uniform_(last.bias, -bound, bound)


class NoiseEmbedding(nn.Module):
    """Sinusoidal features of a noise level or a step, then two linear layers.

    Args:
        dim: Features; even.
        scale: Brings the levels to the range of diffusion steps, up to about 1000.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        exponents = torch.linspace(0, math.log(10_000), dim // 2)
        self.register_buffer("frequencies", scale * torch.exp(-exponents), persistent=False)
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), Mish(), nn.Linear(4 * dim, dim))

    def forward(self, noise: Tensor) -> Tensor:
        """Levels ``[B]`` to ``[B, dim]``."""
        angles = noise[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
