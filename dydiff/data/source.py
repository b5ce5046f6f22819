"""Where datasets come from: the contract of all sources."""

import traceback
from abc import ABC, abstractmethod
from pathlib import Path

from dydiff.data.checks import check_rule, episodes_flaw
from dydiff.data.episodes import Episodes
from dydiff.data.tasks import Task
from dydiff.utils.errors import UserError, first_line


class EpisodeSource(ABC):
    """Where a dataset comes from. A new source is a subclass in a file of its own."""

    _episodes: Episodes | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name for folders and messages."""

    @property
    @abstractmethod
    def task(self) -> Task:
        """The task that the dataset was collected in; known without reading the data."""

    @abstractmethod
    def read(self) -> Episodes:
        """The dataset, from wherever it is. What is wrong with its numbers is found afterwards.

        Raises:
            UserError: The dataset cannot be had. Of any other exception people see the first line, and where it was.
        """

    def load(self) -> Episodes:
        """The dataset, read once and checked.

        Raises:
            UserError: It cannot be had, is not sound, or the task's termination rule fails on it or contradicts it.
        """
        if self._episodes is None:
            who = f"{type(self).__name__} '{self.name}'"
            try:
                episodes = self.read()
            except UserError:
                raise
            except Exception as error:  # the source may be anyone's
                place = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__}: {first_line(error)} ({Path(place.filename).name}, line {place.lineno})"
                raise UserError(f"{who} cannot be read: {what}.") from error
            if flaw := episodes_flaw(episodes, self.task):
                raise UserError(f"{who} is not sound: {flaw}.")
            check_rule(self.task, episodes.transitions)
            self._episodes = episodes
        return self._episodes
