"""D4RL's HDF5 layout: from a path, from D4RL's cache folder, or downloaded into it."""

import hashlib
import http.client
import os
import urllib.request
import zipfile
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from dydiff.data.checks import ACT_LIMIT, as_flags
from dydiff.data.episodes import Episodes, Transitions
from dydiff.data.gym_tasks import task_of, to_unit_actions
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import TASKS, RemoteDataset, Task, find_dataset
from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_KEYS = (*_REQUIRED, "timeouts", "next_observations")
_UNREADABLE = (zipfile.BadZipFile, OSError, KeyError, ValueError, TypeError, RuntimeError)


class D4RLSource(EpisodeSource):
    """A file in D4RL's layout: ``observations, actions, rewards, terminals`` and, where there are, ``timeouts`` and
    ``next_observations``. A file of your own may be an NPZ archive of the same arrays.

    Args:
        dataset: A D4RL name such as ``hopper-medium-replay-v2``: read from the folder that the environment variable
            ``D4RL_DATASET_DIR`` names (``~/.d4rl/datasets`` when unset), downloaded into it when missing.
        path: A local HDF5 or NPZ file, relative to the working directory; given, it takes the place of ``dataset``.
        env_id: Gymnasium id of a local file's environment; ``null`` reads the file's ``env_id`` attribute.
        score_min: Return of score 0; ``null`` takes the environment's.
        score_max: Return of score 100; ``null`` takes the environment's.
        terminated: Termination rule of rollouts, as an import path; ``null`` takes the environment's, if it is known.
        mujoco2_contacts: Whether evaluation restores MuJoCo 2's contacts; ``null`` takes the file's attribute, and
            where it has none, as D4RL's files do not, true for D4RL's environments.

    Raises:
        UserError: Neither ``dataset`` nor ``path``, an unknown name, or no environment for a local file.
    """

    def __init__(
        self,
        dataset: str | None = None,
        path: str | None = None,
        env_id: str | None = None,
        score_min: float | None = None,
        score_max: float | None = None,
        terminated: Callable[..., Any] | None = None,
        mujoco2_contacts: bool | None = None,
    ) -> None:
        if dataset is None and path is None:
            raise UserError("D4RLSource needs a 'dataset' (a D4RL name) or a 'path' (a local HDF5 or NPZ file).")
        remote = find_dataset(dataset) if dataset is not None else None  # a misspelled name is told beside a path, too
        self.remote = remote if path is None else None
        self.path = Path(path).expanduser() if path is not None else None
        self._env_id = env_id
        self._score_range = (score_min, score_max)
        self._terminated = terminated
        self._mujoco2_contacts = mujoco2_contacts
        self._name = self.path.stem if self.path is not None else str(dataset)

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def task(self) -> Task:
        env_id, contacts = (self.remote.task.env_id, None) if self.remote is not None else self._named_by_file()
        if self._mujoco2_contacts is not None:
            contacts = self._mujoco2_contacts
        elif contacts is None:
            contacts = env_id in {task.env_id for task in TASKS.values()}
        return task_of(env_id, *self._score_range, self._terminated, contacts)

    def read(self) -> Episodes:
        path = self._local() if self.remote is None else cached_file(self.remote)
        stat = path.stat()
        return _read(path, self.task, stat.st_mtime_ns, stat.st_size)

    def _local(self) -> Path:
        assert self.path is not None
        if not self.path.is_file():
            raise UserError(
                f"No dataset at {self.path.absolute()}. Give 'path' the place of an HDF5 or NPZ file in D4RL's layout, "
                "or name a D4RL dataset with 'dataset'."
            )
        return self.path

    def _named_by_file(self) -> tuple[str, bool | None]:
        """The environment's id, and whether its contacts were MuJoCo 2's, ``None`` where the file does not say."""
        path = self._local()
        env_id, contacts = self._env_id, None
        if path.suffix != ".npz":
            try:
                with h5py.File(path) as file:
                    env_id = env_id or file.attrs.get("env_id")
                    contacts = file.attrs.get("mujoco2_contacts")
            except _UNREADABLE as error:
                raise UserError(f"{path} is not a readable HDF5 file ({error}). Download or copy it again.") from None
        if env_id is None:
            raise UserError(
                f"{path} does not name its environment: set 'env_id' to its Gymnasium id, such as Hopper-v4."
            )
        return str(env_id), None if contacts is None else bool(contacts)


def dataset_folder() -> Path:
    """D4RL's cache folder: ``D4RL_DATASET_DIR``, or ``~/.d4rl/datasets``."""
    return Path(os.environ.get("D4RL_DATASET_DIR", "~/.d4rl/datasets")).expanduser()


def cached_file(remote: RemoteDataset) -> Path:
    """The local copy of a D4RL file, downloaded first when the cache folder has none.

    A download has a temporary name until its size and SHA-256 are checked.

    Raises:
        UserError: No network, or what came is not the file that D4RL published.
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


@lru_cache(maxsize=1)  # the stages of one run read the same file
def _read(path: Path, task: Task, modified_ns: int, num_bytes: int) -> Episodes:
    arrays = _read_arrays(path)
    _check(path, arrays, task)
    _check_actions(path, arrays["actions"], task)
    arrays["actions"] = to_unit_actions(arrays["actions"], task.act_bounds)
    arrays["timeouts"] &= ~arrays["terminals"]
    ends = arrays["terminals"] | arrays["timeouts"]
    if "next_observations" in arrays:
        jumps = _jumps(arrays["next_observations"][:-1], arrays["observations"][1:]) & ~ends[:-1]
        arrays["timeouts"][:-1] |= jumps  # an end that nobody marked: no window may cross it
        ends[:-1] |= jumps
        if jumps.sum() > len(ends) / 2:
            rank_zero_info(f"{path}: most rows do not go on from the row before. Is it in the order of its episodes?")
    else:
        arrays, ends = _with_next_observations(path, arrays, ends)
    ends[-1] = True  # the last episode may be cut off with neither flag set
    last_rows = np.flatnonzero(ends)
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
    transitions = Transitions(
        tensors["observations"],
        tensors["actions"].clamp_(-1, 1),
        tensors["rewards"],
        tensors["next_observations"],
        tensors["terminals"],
    )
    lengths = torch.from_numpy(np.diff(last_rows, prepend=-1))
    return Episodes(transitions, tensors["timeouts"], lengths)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) if path.suffix == ".npz" else h5py.File(path) as file:
            there = {key for key in _KEYS if key in file and not isinstance(file[key], h5py.Group)}
            if missing := [key for key in _REQUIRED if key not in there]:
                raise UserError(f"{path} has no {', '.join(missing)}: it is not in D4RL's layout.")
            arrays = {key: file[key][()] for key in _KEYS if key in there}
        for key, array in arrays.items():
            if array.dtype.kind not in "biuf":
                raise UserError(f"{path}: '{key}' holds {array.dtype}, not numbers.")
            if key in ("terminals", "timeouts"):
                arrays[key] = as_flags(array, f"{path}: '{key}'")
                continue
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused for that
                arrays[key] = array.astype(np.float32, copy=False)
    except _UNREADABLE as error:
        raise UserError(f"{path} is not a readable HDF5 or NPZ file ({error}). Download or copy it again.") from None
    for key in ("rewards", "terminals", "timeouts"):
        if key in arrays and arrays[key].ndim == 2 and arrays[key].shape[1] == 1:
            arrays[key] = arrays[key][:, 0]
    if "timeouts" not in arrays and "next_observations" not in arrays:
        raise UserError(f"{path} has neither timeouts nor next_observations: where its episodes end is unknown.")
    arrays.setdefault("timeouts", np.zeros(arrays["terminals"].shape, bool))
    return arrays


def _check(path: Path, arrays: dict[str, np.ndarray], task: Task) -> None:
    count = len(arrays["observations"]) if arrays["observations"].ndim else 0
    if count == 0:
        raise UserError(f"{path} holds no transitions.")
    for key, array in arrays.items():
        sizes = {"observations": task.obs_dim, "next_observations": task.obs_dim, "actions": task.act_dim}
        width = (sizes[key],) if key in sizes else ()
        if array.shape != (count, *width):
            raise UserError(f"{path}: '{key}' has shape {array.shape}, the task needs {(count, *width)}.")
        if array.dtype != bool and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(count, -1).all(1))[0])
            raise UserError(f"{path}: '{key}' has a value that is not finite in row {row}. Remove its episode.")
    empty = np.flatnonzero((arrays["observations"] == 0).all(1))
    if (
        len(empty) and task.name in TASKS
    ):  # neither a robot nor a ball is ever all zeros; damaged files and early uploads are
        raise UserError(f"{path}: {len(empty):,} states are all zero, the first in row {empty[0]}. Download it again.")


def _check_actions(path: Path, act: np.ndarray, task: Task) -> None:
    """Whether actions, still in the environment's own units, lie within its bounds."""
    extremes = np.stack([act.min(0), act.max(0)])
    outside = np.abs(to_unit_actions(extremes, task.act_bounds)) > ACT_LIMIT
    if outside.any():
        side, column = np.argwhere(outside)[0]
        low, high = (bound[column] for bound in task.act_bounds or ((-1.0,) * task.act_dim, (1.0,) * task.act_dim))
        raise UserError(
            f"{path}: actions reach {extremes[side, column]:.3g}, but those of {task.env_id} must lie in "
            f"[{low:g}, {high:g}]. Rescale them to the bounds."
        )


def _jumps(reached: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Bool ``[N]``: whether the state of the following row is another than the one that was reached."""
    jumps = np.zeros(len(reached), bool)
    for before, after in zip(reached.T, following.T, strict=True):  # a dimension at a time: no copy of the whole
        jumps |= np.abs(after - before) > 1e-3 * (1 + np.abs(before))
    return jumps


def _with_next_observations(
    path: Path, arrays: dict[str, np.ndarray], ends: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Take each next state from the next row. An episode's last row has none and is dropped."""
    if arrays["terminals"].any():
        raise UserError(f"{path} has terminals but no 'next_observations': the states they ended in are unknown.")
    keep = ~ends
    keep[-1] = False
    if not keep.any():
        raise UserError(f"{path} has no 'next_observations' and no episode of two steps to take them from.")
    arrays = dict(arrays, next_observations=np.roll(arrays["observations"], -1, axis=0))
    last_kept = keep & ~np.append(keep[1:], False)
    arrays["timeouts"] = last_kept
    return {key: array[keep] for key, array in arrays.items()}, last_kept[keep]
