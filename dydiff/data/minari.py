"""Minari datasets, local ones and those that Minari downloads."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from dydiff.data.episodes import Episodes, Transitions
from dydiff.data.gym_tasks import task_of, to_unit_actions
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.utils.console import pip_install
from dydiff.utils.errors import UserError, first_line


class MinariSource(EpisodeSource):
    """A Minari dataset by its id; Minari keeps it in its own folder (``MINARI_DATASETS_PATH``).

    Args:
        dataset: Minari id such as ``mujoco/hopper/medium-v0``; downloaded when it is not there.
        env_id: Gymnasium id; ``null`` takes the one that the dataset names, with the arguments that it was made with.
        score_min: Return of score 0; ``null`` takes the dataset's own, then the environment's.
        score_max: Return of score 100; likewise.
        terminated: Termination rule of rollouts, as an import path; ``null`` takes the environment's, if it is known.

    Raises:
        UserError: Minari is not installed, cannot get the dataset, or the dataset has no environment.
    """

    def __init__(
        self,
        dataset: str,
        env_id: str | None = None,
        score_min: float | None = None,
        score_max: float | None = None,
        terminated: Callable[..., Any] | None = None,
    ) -> None:
        self.dataset = dataset
        opened = _open(dataset)
        self._folder = str(opened.storage.data_path)
        metadata, named = opened.storage.metadata, opened.spec.env_spec
        options = {} if env_id or named is None else {k: v for k, v in named.kwargs.items() if k != "render_mode"}
        env_id = env_id or (named.id if named is not None else None)
        if env_id is None:
            raise UserError(f"{dataset} does not name its environment: set 'env_id' to its Gymnasium id.")
        score_min = metadata.get("ref_min_score") if score_min is None else score_min
        score_max = metadata.get("ref_max_score") if score_max is None else score_max
        self._task = task_of(env_id, score_min, score_max, terminated, env_options=options)

    @property
    def name(self) -> str:
        return self.dataset.replace("/", "-")

    @property
    def task(self) -> Task:
        return self._task

    def version(self) -> str:
        return self._folder

    def read(self) -> Episodes:
        return _read(self.dataset, self._task)


def _open(dataset: str) -> Any:
    try:
        import minari
    except ImportError:
        raise UserError(f"Minari datasets need its package: {pip_install('minari')}.") from None
    try:
        return minari.load_dataset(dataset, download=True)
    except Exception as error:  # it passes on whatever its storage and its remote raise
        raise UserError(
            f"Minari cannot get '{dataset}' ({first_line(error)}). `minari list remote` shows what there is; "
            "MINARI_DATASETS_PATH names the folder of local datasets."
        ) from None


def _read(dataset: str, task: Task) -> Episodes:
    steps: dict[str, list[np.ndarray]] = {
        key: [] for key in ("obs", "act", "reward", "next_obs", "terminal", "timeout")
    }
    lengths = []
    opened = _open(dataset)
    for episode in opened.iterate_episodes():
        states = _flat(episode.observations, opened.observation_space)
        lengths.append(len(episode.rewards))
        terminal = np.asarray(episode.terminations, bool)
        values = (states[:-1], episode.actions, episode.rewards, states[1:], terminal)
        for key, value in zip(steps, (*values, np.asarray(episode.truncations, bool) & ~terminal), strict=True):
            steps[key].append(value)
    if not lengths:
        raise UserError(f"{dataset} holds no episodes.")
    arrays = {key: np.concatenate(values) for key, values in steps.items()}
    if arrays["obs"].shape[1:] != (task.obs_dim,) or arrays["act"].shape[1:] != (task.act_dim,):
        raise UserError(
            f"{dataset} has states of {arrays['obs'].shape[1:]} and actions of {arrays['act'].shape[1:]} numbers, "
            f"{task.env_id} has {task.obs_dim} and {task.act_dim}."
        )
    arrays["act"] = to_unit_actions(arrays["act"], task.act_bounds).clip(-1, 1)
    for key in ("obs", "act", "reward", "next_obs"):
        arrays[key] = arrays[key].astype(np.float32)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays.values()]
    return Episodes(Transitions(*tensors[:5]), tensors[5], torch.tensor(lengths))


def _flat(observations: Any, space: gym.Space[Any]) -> np.ndarray:
    """States as vectors; of a dictionary the parts side by side, as Gymnasium's FlattenObservation orders them."""
    if isinstance(space, gym.spaces.Dict):
        return np.concatenate([_flat(observations[key], part) for key, part in space.items()], axis=1)
    return np.asarray(observations)
