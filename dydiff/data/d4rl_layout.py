"""D4RL's layout of arrays in an HDF5 or NPZ file, read into episodes."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from dydiff.data.checks import ACT_LIMIT, as_flags
from dydiff.data.episodes import Episodes, Transitions
from dydiff.data.gym_tasks import to_unit_actions
from dydiff.data.tasks import TASKS, Task
from dydiff.utils.errors import UserError

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_FLAGS = ("terminals", "timeouts")
_KEYS = (*_REQUIRED, "timeouts", "next_observations")
_UNREADABLE = (zipfile.BadZipFile, OSError, KeyError, ValueError, TypeError, RuntimeError)


def read_episodes(path: Path, task: Task) -> Episodes:
    """The episodes of a file, with actions stretched to [-1, 1].

    An episode ends at a terminal, at a timeout, and before a row that does not start in the state that the row before
    it reached. The last episode may end with neither flag.

    Args:
        path: An HDF5 file, or an NPZ archive with the ending ``.npz``.
        task: What the data are of; gives the sizes of states and actions, and the actions' bounds.

    Raises:
        UserError: The file cannot be read, or its arrays are not in D4RL's layout or not of this task.
    """
    arrays = _read_arrays(path)
    _check_shapes(path, arrays, task)
    _check_states(path, arrays["observations"], task)
    _check_bounds(path, arrays["actions"], task)
    arrays["actions"] = to_unit_actions(arrays["actions"], task.act_bounds)
    arrays, ends = _with_ends(path, arrays)
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
    transitions = Transitions(
        tensors["observations"],
        tensors["actions"].clamp_(-1, 1),
        tensors["rewards"],
        tensors["next_observations"],
        tensors["terminals"],
    )
    lengths = torch.from_numpy(np.diff(np.flatnonzero(ends), prepend=-1))
    return Episodes(transitions, tensors["timeouts"], lengths)


def read_attributes(path: Path, *names: str) -> dict[str, Any]:
    """Those of the named attributes that an HDF5 file has; an NPZ archive has none.

    Raises:
        UserError: The file cannot be read.
    """
    if path.suffix == ".npz":
        return {}
    with _opened(path) as file:
        return {name: file.attrs[name] for name in names if name in file.attrs}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file; whatever goes wrong while it is read becomes one line."""
    try:
        with np.load(path, allow_pickle=False) if path.suffix == ".npz" else h5py.File(path) as file:
            yield file
    except BlockingIOError:
        raise UserError(f"{path} is open for writing in another process: close it there first.") from None
    except _UNREADABLE as error:
        raise UserError(f"{path} is not a readable HDF5 or NPZ file ({error}). Download or copy it again.") from None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays by their names: flags are bool, the others float32."""
    with _opened(path) as file:
        present = {key for key in _KEYS if key in file and not isinstance(file[key], h5py.Group)}
        if missing := [key for key in _REQUIRED if key not in present]:
            raise UserError(f"{path} has no {', '.join(missing)}: it is not in D4RL's layout.")
        stored = {key: np.asarray(file[key][()]) for key in _KEYS if key in present}
    arrays = {}
    for key, array in stored.items():
        if array.dtype.kind not in "biuf":
            raise UserError(f"{path}: '{key}' is an array of {array.dtype}, not of numbers.")
        if key in ("rewards", *_FLAGS) and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        with np.errstate(over="ignore"):  # values out of float32 range become infinite, and are rejected later
            arrays[key] = as_flags(array, f"{path}: '{key}'") if key in _FLAGS else array.astype(np.float32, copy=False)
    if "timeouts" not in arrays and "next_observations" not in arrays:
        raise UserError(f"{path} has neither timeouts nor next_observations: where its episodes end is unknown.")
    arrays.setdefault("timeouts", np.zeros(arrays["terminals"].shape, bool))
    return arrays


def _check_shapes(path: Path, arrays: dict[str, np.ndarray], task: Task) -> None:
    """Refuse arrays that do not have a row for each transition, and the task's sizes."""
    count = len(arrays["observations"]) if arrays["observations"].ndim else 0
    if count == 0:
        raise UserError(f"{path} has no transitions.")
    sizes = {"observations": task.obs_dim, "next_observations": task.obs_dim, "actions": task.act_dim}
    for key, array in arrays.items():
        shape = (count, sizes[key]) if key in sizes else (count,)
        if array.shape != shape:
            raise UserError(f"{path}: '{key}' has shape {array.shape}, the task needs {shape}.")


def _check_states(path: Path, obs: np.ndarray, task: Task) -> None:
    """Refuse states of zeros: no robot or ball of the table is ever in one, but damaged files and early uploads are."""
    empty = np.flatnonzero((obs == 0).all(1))
    if len(empty) and task.name in TASKS:
        raise UserError(f"{path}: {len(empty):,} states are all zero, the first in row {empty[0]}. Download it again.")


def _check_bounds(path: Path, act: np.ndarray, task: Task) -> None:
    """Refuse actions, still in the environment's own units, beyond its bounds."""
    extremes = np.stack([act.min(0), act.max(0)])
    outside = np.abs(to_unit_actions(extremes, task.act_bounds)) > ACT_LIMIT
    if outside.any():
        side, column = np.argwhere(outside)[0]
        low, high = (bound[column] for bound in task.act_bounds or ((-1.0,) * task.act_dim, (1.0,) * task.act_dim))
        raise UserError(
            f"{path}: actions reach {extremes[side, column]:.3g}, but those of {task.env_id} must be in "
            f"[{low:g}, {high:g}]. Rescale them to the bounds."
        )


def _with_ends(path: Path, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays with next states, timeouts and terminals apart, and bool ``[N]``: which rows end an episode."""
    arrays["timeouts"] = arrays["timeouts"] & ~arrays["terminals"]
    ends = arrays["terminals"] | arrays["timeouts"]
    if "next_observations" not in arrays:
        return _with_next_observations(path, arrays, ends)
    jumps = _jumps(arrays["next_observations"][:-1], arrays["observations"][1:]) & ~ends[:-1]
    arrays["timeouts"][:-1] |= jumps  # an end without a flag: no window may cross it
    ends[:-1] |= jumps
    if jumps.sum() > len(ends) / 2:
        rank_zero_info(
            f"{path}: most rows do not start in the state that the row before them reached. Are the rows in the order "
            "of their episodes?"
        )
    ends[-1] = True  # the last episode may end with neither flag
    return arrays, ends


def _jumps(reached: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Bool ``[N]``: whether the following row's state differs from the state that was reached."""
    jumps = np.zeros(len(reached), bool)
    for before, after in zip(
        reached.T, following.T, strict=True
    ):  # one dimension at a time avoids a copy of all states
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
