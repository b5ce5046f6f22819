"""Filters: which trajectories to keep. The keys are compared over all of them, the largest are kept."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from dydiff.data.episodes import Trajectories
from dydiff.utils.errors import UserError, above_zero, did_you_mean


class Filter(ABC):
    """Ranks trajectories. A new filter is a subclass in its own file.

    Args:
        keep_ratio: Share of a rollout's trajectories that is kept (kappa), in (0, 1].

    Raises:
        UserError: ``keep_ratio`` out of its range.
    """

    def __init__(self, keep_ratio: float = 0.6) -> None:
        if not 0 < keep_ratio <= 1:
            raise UserError(f"keep_ratio must be in (0, 1], not {keep_ratio}.")
        self.keep_ratio = keep_ratio

    @abstractmethod
    def keys(self, trajectories: Trajectories, generator: torch.Generator | None = None) -> Tensor:
        """One key for each of ``N`` trajectories, ``[N]``; the trajectories with the largest are kept.

        A filter that ranks by the synthesizer's metrics has a third argument, ``metrics``: ``[N]`` each, by name.
        """

    def choose(
        self,
        trajectories: Trajectories,
        generator: torch.Generator | None = None,
        count: int | None = None,
        metrics: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Indices of what is kept of ``N`` trajectories, in order.

        Args:
            trajectories: The trajectories.
            generator: Source of the filter's random numbers.
            count: How many ``keep_ratio`` is a share of; ``None`` uses ``N``. Of a rollout that could be used in part
                only, the other trajectories fill the places.
            metrics: The synthesizer's metrics of the trajectories, ``[N]`` each.

        Raises:
            UserError: A subclass's keys have another shape, one is not a number, or a metric that they need is not
                there.
        """
        if "metrics" in inspect.signature(self.keys).parameters:
            keys = self.keys(trajectories, generator, metrics=_Metrics(metrics or {}))  # type: ignore[call-arg]
        else:
            keys = self.keys(trajectories, generator)
        size = len(trajectories.returns)
        if keys.shape != (size,):
            name = type(self).__name__
            raise UserError(f"{name}.keys must give one key for each of {size} trajectories, not {tuple(keys.shape)}.")
        if keys.isnan().any():
            raise UserError(f"{type(self).__name__}.keys gives keys that are not a number, which have no order.")
        kept = max(1, round(self.keep_ratio * (size if count is None else count)))
        return keys.topk(min(kept, size)).indices.sort().values


class _Metrics(dict[str, Tensor]):
    """Metrics by name; one that is not there is reported in one line."""

    def __missing__(self, name: str) -> Tensor:
        raise UserError(f"The filter needs the metric '{name}', which the synthesizer lacks.{did_you_mean(name, self)}")


class Hardmax(Filter):
    """Keeps the trajectories of the highest predicted returns."""

    def keys(self, trajectories: Trajectories, generator: torch.Generator | None = None) -> Tensor:
        return trajectories.returns


class Softmax(Filter):
    """Draws trajectories without replacement, by the softmax of their standardised returns.

    The probabilities are ``(1 - floor) softmax + floor / N``. A draw of most trajectories exhausts those with a high
    return early; the floor, however small, then decides: the rest is drawn almost uniformly.

    The log-probabilities with Gumbel noise are the keys: their top-k is exactly such a draw.

    Args:
        temperature: Of the softmax, above 0; 0.05 is the authors'.
        keep_ratio: Share of a rollout's trajectories that is kept (kappa), in (0, 1].
        floor: Weight of the uniform distribution, in [0, 1]; 1e-6 is the authors'.

    Raises:
        UserError: A setting out of its range.
    """

    def __init__(self, temperature: float = 0.05, keep_ratio: float = 0.6, floor: float = 1e-6) -> None:
        super().__init__(keep_ratio)
        above_zero(temperature=temperature)
        if not 0 <= floor <= 1:
            raise UserError(f"floor must be in [0, 1], not {floor}.")
        self.temperature = temperature
        self.floor = floor

    def keys(self, trajectories: Trajectories, generator: torch.Generator | None = None) -> Tensor:
        log_probs = self.log_probs(trajectories.returns)
        uniform = torch.rand(log_probs.shape, generator=generator, device=log_probs.device)
        tiny = torch.finfo(uniform.dtype).tiny
        return log_probs - (-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()

    def log_probs(self, returns: Tensor) -> Tensor:
        """Log-probabilities ``[N]`` with which one of the returns ``[N]`` is drawn first."""
        standardised = (returns - returns.mean()) / (returns.std(correction=0) + 1e-6)
        softmax = (standardised / self.temperature).log_softmax(0)
        if self.floor == 0:
            return softmax
        uniform = torch.full_like(softmax, math.log(self.floor / len(returns)))
        return torch.logaddexp(softmax + math.log1p(-self.floor), uniform) if self.floor < 1 else uniform
