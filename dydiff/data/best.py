"""The best episodes of another dataset."""

import torch

from dydiff.data.episodes import Episodes
from dydiff.data.source import EpisodeSource
from dydiff.data.split import Subset


class BestEpisodes(Subset):
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
        super().__init__(source, fraction)

    @property
    def name(self) -> str:
        return f"{self.source.name}-best{100 * self.fraction:g}pct"

    def read(self) -> Episodes:
        episodes = self.source.load()
        count = max(1, round(self.fraction * len(episodes.lengths)))
        best = episodes.returns.argsort(descending=True, stable=True)[:count]
        return episodes.select(torch.sort(best).values)
