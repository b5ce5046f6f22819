"""The best episodes of another dataset."""

from collections.abc import Hashable

import torch

from dydiff.data.episodes import Episodes
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.utils.errors import UserError


class BestEpisodes(EpisodeSource):
    """The episodes of another dataset with the largest undiscounted returns, in the dataset's order.

    The data of 10% BC (Chen et al. 2021, who count a tenth of the steps, not of the episodes). Models that a rollout
    needs are trained on these episodes, too.

    Args:
        source: The full dataset.
        fraction: Fraction of its episodes, in (0, 1), rounded; at least one episode.

    Raises:
        UserError: ``fraction`` out of its range.
    """

    def __init__(self, source: EpisodeSource, fraction: float = 0.1) -> None:
        if not 0 < fraction < 1:
            raise UserError(f"fraction must be in (0, 1), not {fraction}.")
        self.source = source
        self.fraction = fraction

    @property
    def name(self) -> str:
        return f"{self.source.name}-best{100 * self.fraction:g}pct"

    @property
    def task(self) -> Task:
        return self.source.task

    def version(self) -> Hashable:
        return self.source.version()

    def read(self) -> Episodes:
        episodes = self.source.load()
        count = max(1, round(self.fraction * len(episodes.lengths)))
        best = episodes.returns.argsort(descending=True, stable=True)[:count]
        return episodes.select(torch.sort(best).values)
