"""Where datasets come from: the contract of all sources."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Hashable
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import Self

from dydiff.data.checks import check_rule, episodes_flaw
from dydiff.data.episodes import Episodes
from dydiff.data.tasks import Task
from dydiff.utils.errors import UserError, first_line

_loaded: dict[Hashable, Episodes] = {}  # of the sources that were loaded last
_MAX_LOADED = 2  # a dataset and a part of it


class EpisodeSource(ABC):
    """Where a dataset comes from. A new source is a subclass in its own file.

    Sources of the same class, arguments and :meth:`version` share one copy of the dataset in memory, as the stages of a
    run make a source each.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        source = super().__new__(cls)
        source._arguments = args, kwargs
        return source

    def __repr__(self) -> str:
        args, kwargs = self._arguments
        named = [f"{name}={value!r}" for name, value in kwargs.items() if value is not None]
        return f"{type(self).__name__}({', '.join([*map(repr, args), *named])})"

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
        """Read the dataset. :meth:`load` checks shapes, types and numbers afterwards.

        Raises:
            UserError: The dataset is not available. Any other exception is reported by its first line and location.
        """

    def version(self) -> Hashable:
        """A value that changes with the content, such as a file's modification time."""
        return None

    def load(self) -> Episodes:
        """The dataset, read once and checked.

        Raises:
            UserError: It is not available or invalid, or the task's termination rule fails on it or contradicts it.
        """
        if self._key not in _loaded:
            episodes = self._read_and_check()
            while len(_loaded) >= _MAX_LOADED:
                del _loaded[next(iter(_loaded))]
            _loaded[self._key] = episodes
        return _loaded[self._key]

    @cached_property
    def _key(self) -> Hashable:
        return type(self), repr(self._arguments), self.version()

    def _read_and_check(self) -> Episodes:
        try:
            episodes = self.read()
        except UserError:
            raise
        except Exception as error:  # a custom source may raise anything
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {first_line(error)} ({Path(place.filename).name}, line {place.lineno})"
            raise UserError(f"{self!r} cannot be read: {what}.") from error
        if flaw := episodes_flaw(episodes, self.task):
            raise UserError(f"{self!r} is invalid: {flaw}.")
        check_rule(self.task, episodes.transitions)
        return episodes


def file_version(path: Path) -> Hashable:
    """The :meth:`~EpisodeSource.version` of a source that reads one file."""
    stat = path.stat()
    return str(path.absolute()), stat.st_mtime_ns, stat.st_size
