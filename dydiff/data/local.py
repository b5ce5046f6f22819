"""A local file in D4RL's layout."""

from collections.abc import Callable, Hashable
from functools import cached_property
from pathlib import Path
from typing import Any

from dydiff.data.d4rl_layout import read_attributes, read_episodes
from dydiff.data.episodes import Episodes
from dydiff.data.gym_tasks import task_of
from dydiff.data.source import EpisodeSource, file_version
from dydiff.data.tasks import TASKS, Task
from dydiff.utils.errors import UserError


class LocalSource(EpisodeSource):
    """A local HDF5 file or NPZ archive in D4RL's layout, of any Gymnasium environment.

    Its arrays are ``observations, actions, rewards, terminals`` and, where there are, ``timeouts`` and
    ``next_observations``. Its name is the file's, without the ending.

    Args:
        path: The file, relative to the working directory.
        env_id: Gymnasium id of its environment; ``null`` reads the file's attribute ``env_id``.
        score_min: Return of score 0; ``null`` uses the environment's.
        score_max: Return of score 100; ``null`` uses the environment's.
        terminated: Termination rule of rollouts, as an import path; ``null`` uses the environment's, if it is known.
        mujoco2_contacts: Whether evaluation restores MuJoCo 2's contacts; ``null`` uses the file's attribute, and
            without one it is true for D4RL's environments.
    """

    def __init__(
        self,
        path: str,
        env_id: str | None = None,
        score_min: float | None = None,
        score_max: float | None = None,
        terminated: Callable[..., Any] | None = None,
        mujoco2_contacts: bool | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self._env_id = env_id
        self._score_range = (score_min, score_max)
        self._terminated = terminated
        self._mujoco2_contacts = mujoco2_contacts

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def task(self) -> Task:
        """The environment's.

        Raises:
            UserError: There is no such file, it cannot be read, or it does not name its environment.
        """
        attributes = read_attributes(self._file(), "env_id", "mujoco2_contacts")
        env_id = self._env_id or attributes.get("env_id")
        if env_id is None:
            raise UserError(
                f"{self.path} does not name its environment: set 'env_id' to its Gymnasium id, such as Hopper-v4."
            )
        contacts = self._mujoco2_contacts
        if contacts is None:
            contacts = attributes.get("mujoco2_contacts", env_id in {task.env_id for task in TASKS.values()})
        return task_of(str(env_id), *self._score_range, self._terminated, bool(contacts))

    def version(self) -> Hashable:
        return file_version(self._file())

    def read(self) -> Episodes:
        return read_episodes(self._file(), self.task)

    def _file(self) -> Path:
        if not self.path.is_file():
            raise UserError(
                f"No dataset at {self.path.absolute()}: 'path' must be an HDF5 or NPZ file in D4RL's layout. A "
                "D4RL dataset by its name is a D4RLSource."
            )
        return self.path
