"""D4RL's datasets by their names: from D4RL's cache folder, or downloaded into it."""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable, Hashable
from functools import cached_property
from pathlib import Path
from typing import Any

from dydiff.data.d4rl_layout import read_episodes
from dydiff.data.episodes import Episodes
from dydiff.data.gym_tasks import task_of
from dydiff.data.source import EpisodeSource, file_version
from dydiff.data.tasks import RemoteDataset, Task, find_dataset
from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing


class D4RLSource(EpisodeSource):
    """A D4RL dataset by its name; a file by its path is :class:`~dydiff.data.local.LocalSource`.

    It is read from the folder that the environment variable ``D4RL_DATASET_DIR`` names (``~/.d4rl/datasets`` when
    unset), and downloaded into it when missing.

    Args:
        dataset: D4RL's name, such as ``hopper-medium-replay-v2``.
        score_min: Return of score 0; ``null`` uses D4RL's.
        score_max: Return of score 100; ``null`` uses D4RL's.
        terminated: Termination rule of rollouts, as an import path; ``null`` uses the environment's.
        mujoco2_contacts: Whether evaluation restores the contacts of MuJoCo 2, with which D4RL's data were made;
            ``null`` restores them.

    Raises:
        UserError: The name is unknown.
    """

    def __init__(
        self,
        dataset: str,
        score_min: float | None = None,
        score_max: float | None = None,
        terminated: Callable[..., Any] | None = None,
        mujoco2_contacts: bool | None = None,
    ) -> None:
        self.remote = find_dataset(dataset)
        self._name = dataset
        self._score_range = (score_min, score_max)
        self._terminated = terminated
        self._mujoco2_contacts = mujoco2_contacts is not False

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def task(self) -> Task:
        return task_of(self.remote.task.env_id, *self._score_range, self._terminated, self._mujoco2_contacts)

    def version(self) -> Hashable:
        return file_version(cached_file(self.remote))

    def read(self) -> Episodes:
        return read_episodes(cached_file(self.remote), self.task)


def dataset_folder() -> Path:
    """D4RL's cache folder: ``D4RL_DATASET_DIR``, or ``~/.d4rl/datasets``."""
    return Path(os.environ.get("D4RL_DATASET_DIR", "~/.d4rl/datasets")).expanduser()


def cached_file(remote: RemoteDataset) -> Path:
    """The local copy of a D4RL file, downloaded if the cache folder does not contain it.

    A download has a temporary name until its size and SHA-256 are checked.

    Raises:
        UserError: The download fails, or its size or checksum is not that of the file that D4RL published.
    """
    path = dataset_folder() / Path(remote.url).name
    if path.is_file():
        return path
    try:
        with replacing(path) as part:
            _download(remote, part)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"Could not download {remote.url} ({error}). Put the file at {path} yourself, or set D4RL_DATASET_DIR "
            "to the folder that has it; configs/demo.yaml runs without a download."
        ) from None
    return path


def _download(remote: RemoteDataset, part: Path) -> None:
    from rich.progress import wrap_file

    digest = hashlib.sha256()
    title = f"Downloading {Path(remote.url).name}"
    with (
        urllib.request.urlopen(remote.url, timeout=30) as response,
        wrap_file(response, remote.num_bytes or int(response.headers["Content-Length"]), description=title) as reader,
        part.open("wb") as file,
    ):
        while block := reader.read(1 << 20):
            digest.update(block)
            file.write(block)
    if remote.sha256 is not None and digest.hexdigest() != remote.sha256:
        raise UserError(
            f"{remote.url} sent {part.stat().st_size:,} bytes that are not D4RL's file ({remote.num_bytes} bytes, "
            f"SHA-256 {remote.sha256[:12]}...). Try again, or put the file into {dataset_folder()} yourself."
        )
