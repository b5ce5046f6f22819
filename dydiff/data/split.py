"""Subsets of another dataset's episodes."""

from collections.abc import Hashable

from dydiff.data.episodes import Episodes
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.utils.errors import UserError


class Subset(EpisodeSource):
    """A fraction of another dataset's episodes; a subclass chooses them.

    Args:
        source: The full dataset.
        fraction: Fraction of its episodes, in (0, 1).

    Raises:
        UserError: ``fraction`` out of its range.
    """

    def __init__(self, source: EpisodeSource, fraction: float) -> None:
        if not 0 < fraction < 1:
            raise UserError(f"fraction must be in (0, 1), not {fraction}.")
        self.source = source
        self.fraction = fraction

    @property
    def task(self) -> Task:
        return self.source.task

    def version(self) -> Hashable:
        return self.source.version()


class SplitSource(Subset):
    """A random subset of another dataset's episodes; the others are held out.

    Args:
        source: The full dataset.
        fraction: Fraction of its episodes, in (0, 1); at least one episode.
        split_seed: Seed of the choice.

    Raises:
        UserError: ``fraction`` out of its range.
    """

    def __init__(self, source: EpisodeSource, fraction: float = 0.05, split_seed: int = 0) -> None:
        super().__init__(source, fraction)
        self.split_seed = split_seed

    @property
    def name(self) -> str:
        return f"{self.source.name}-{100 * self.fraction:g}pct"

    def read(self) -> Episodes:
        return self._part(1)

    def held_back(self) -> Episodes:
        """The episodes that :meth:`read` leaves out."""
        return self._part(0)

    def _part(self, side: int) -> Episodes:
        episodes = self.source.load()
        return episodes.select(episodes.split(self.fraction, self.split_seed)[side])
