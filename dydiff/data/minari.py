"""Minari datasets, local ones and those that Minari downloads."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from lightning.pytorch.utilities import rank_zero_info

from dydiff.data.checks import ACT_LIMIT, as_flags
from dydiff.data.episodes import Episodes, Transitions
from dydiff.data.gym_tasks import flat_width, task_of, to_unit_actions
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.utils.console import pip_install
from dydiff.utils.errors import UserError, first_line


class MinariSource(EpisodeSource):
    """A Minari dataset by its id; Minari keeps it in its own folder (``MINARI_DATASETS_PATH``).

    Evaluation is in the environment that the dataset names for it, else in the recorded one, with its arguments,
    wrappers and step limit.

    Args:
        dataset: Minari id such as ``mujoco/hopper/medium-v0``; downloaded when it is not there.
        env_id: Gymnasium id; ``null`` uses the environment that the dataset names. Given, arguments and wrappers of
            the recorded environment are not used.
        score_min: Return of score 0; ``null`` uses the dataset's own, then the environment's.
        score_max: Return of score 100; likewise.
        terminated: Termination rule of rollouts, as an import path; ``null`` uses the environment's, if it is known.

    Raises:
        UserError: Minari is not installed, cannot get the dataset, the dataset's environment is unknown or cannot be
            recovered, or its spaces are not the dataset's.
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
        spaces = opened.observation_space, opened.action_space
        if flat_width(spaces[0]) is None:
            raise UserError(f"The states of {dataset} are {spaces[0]}, not vectors of numbers.")
        if not isinstance(spaces[1], gym.spaces.Box) or len(spaces[1].shape) != 1:
            raise UserError(f"The actions of {dataset} are {spaces[1]}; the agents need bounded vectors of numbers.")
        metadata = opened.storage.metadata
        recorded = opened.spec.env_spec
        named = _evaluation_spec(metadata) or recorded
        if env_id is not None:
            _report_unused(dataset, env_id, recorded)
            named = None
        elif named is None:
            raise UserError(f"{dataset} does not name its environment: set 'env_id' to its Gymnasium id.")
        else:
            env_id, named = named.id, _playable(dataset, named)
        score_min = metadata.get("ref_min_score") if score_min is None else score_min
        score_max = metadata.get("ref_max_score") if score_max is None else score_max
        stock = named is None or not (named.kwargs or named.additional_wrappers)
        spec = None if named is None or (stock and named == _registered(env_id)) else named.to_json()
        self._task = task_of(env_id, score_min, score_max, terminated, env_spec=spec)
        _check_spaces(self._task, dataset, *spaces)

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


def _evaluation_spec(metadata: Mapping[str, Any]) -> EnvSpec | None:
    """The environment that a dataset names for evaluation, where it is another than the recorded one."""
    text = metadata.get("eval_env_spec")
    return None if text is None else EnvSpec.from_json(text)


def _registered(env_id: str) -> EnvSpec | None:
    try:
        return gym.spec(env_id)
    except gym.error.Error:
        return None


def _playable(dataset: str, spec: EnvSpec) -> EnvSpec:
    """A recorded specification without what concerns drawing.

    Raises:
        UserError: A wrapper's arguments or its state were not recorded.
    """
    by_hand = "Record the data with states that need no such wrapper, or set 'env_id' to evaluate without wrappers."
    for wrapper in spec.additional_wrappers:
        if wrapper.kwargs is None:
            raise UserError(f"{dataset} did not record the arguments of the wrapper {wrapper.name}. {by_hand}")
        if wrapper.name == "NormalizeObservation":
            raise UserError(f"{dataset} did not record the running mean and variance of {wrapper.name}. {by_hand}")
        if wrapper.name == "NormalizeReward":
            rank_zero_info(
                f"{dataset}: NormalizeReward restarts its statistics in evaluation, so returns have another scale."
            )
    kept = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
    return replace(spec, kwargs=kept)


def _report_unused(dataset: str, env_id: str, recorded: EnvSpec | None) -> None:
    """Report what an evaluation in ``env_id`` leaves out."""
    if recorded is None:
        rank_zero_info(f"{dataset} does not record its wrappers: evaluation is in plain {env_id}.")
    elif unused := [*recorded.kwargs, *(wrapper.name for wrapper in recorded.additional_wrappers)]:
        rank_zero_info(
            f"{dataset} was recorded with {', '.join(unused)}: evaluation is in plain {env_id} without them."
        )


def _check_spaces(task: Task, dataset: str, states: gym.Space[Any], actions: gym.spaces.Box) -> None:
    """Whether a dataset's states are as wide as a task's, and its actions have the task's bounds."""
    if (widths := (flat_width(states), actions.shape[0])) != (task.obs_dim, task.act_dim):
        raise UserError(
            f"{dataset} has states of {widths[0]} and actions of {widths[1]} numbers, {task.env_id} has {task.obs_dim} "
            f"and {task.act_dim}."
        )
    low, high = task.act_bounds or ((-1.0,) * task.act_dim, (1.0,) * task.act_dim)
    if actions.is_bounded() and not (np.allclose(actions.low, low) and np.allclose(actions.high, high)):
        raise UserError(
            f"{dataset} has actions from {actions.low.tolist()} to {actions.high.tolist()}, {task.env_id} from "
            f"{list(low)} to {list(high)}: it was recorded in another environment, perhaps with a wrapper."
        )


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
        states, count = _flat(episode.observations, opened.observation_space), len(episode.rewards)
        if len(states) != count + 1:
            raise UserError(
                f"{dataset}: episode {episode.id} has {len(states)} states for {count} steps, not {count + 1}. Remove "
                "it with MinariDataset.filter_episodes, or use a newer version of the dataset."
            )
        lengths.append(count)
        terminal, truncated = (
            as_flags(np.asarray(flags), f"{dataset}: {name} of episode {episode.id}")
            for name, flags in (("terminations", episode.terminations), ("truncations", episode.truncations))
        )
        values = (states[:-1], episode.actions, episode.rewards, states[1:], terminal, truncated & ~terminal)
        for key, value in zip(steps, values, strict=True):
            steps[key].append(value)
    if not lengths:
        raise UserError(f"{dataset} has no episodes.")
    arrays = {key: np.concatenate(values) for key, values in steps.items()}
    if (outside := np.abs(to_unit_actions(arrays["act"], task.act_bounds)) > ACT_LIMIT).any():
        row, column = np.argwhere(outside)[0]
        raise UserError(
            f"{dataset}: actions reach {arrays['act'][row, column]:.3g}, beyond the bounds of {task.env_id}. Rescale "
            "them to the bounds."
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
