"""Filters: which trajectories to keep. The keys are compared over all of them, the largest are kept."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dydiff.data.episodes import Trajectories
from dydiff.errors import UserError


class Filter(ABC):
    """Ranks trajectories. A new one is a subclass in a file of its own."""

    @abstractmethod
    def keys(self, trajectories: Trajectories, generator: torch.Generator | None = None) -> Tensor:
        """One key for each of ``N`` trajectories, ``[N]``; the trajectories with the largest are kept."""


class Hardmax(Filter):
    """The highest predicted returns."""

    def keys(self, trajectories: Trajectories, generator: torch.Generator | None = None) -> Tensor:
        return trajectories.returns


class Softmax(Filter):
    """Drawn without replacement, with probabilities that are the softmax of the standardised returns.

    The logits with Gumbel noise are the keys: their top-k is exactly such a draw.

    Args:
        temperature: Of the softmax, above 0; 0.05 is the authors'.

    Raises:
        UserError: ``temperature`` not above 0.
    """

    def __init__(self, temperature: float = 0.05) -> None:
        if temperature <= 0:
            raise UserError(f"temperature must be above 0, not {temperature}.")
        self.temperature = temperature

    def keys(self, trajectories: Trajectories, generator: torch.Generator | None = None) -> Tensor:
        logits = self.logits(trajectories.returns)
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
        tiny = torch.finfo(uniform.dtype).tiny
        return logits - (-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()

    def logits(self, returns: Tensor) -> Tensor:
        """Unnormalised log-probabilities ``[N]`` of returns ``[N]``."""
        return (returns - returns.mean()) / (returns.std(correction=0) + 1e-6) / self.temperature
