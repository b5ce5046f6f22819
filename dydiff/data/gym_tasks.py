"""Tasks of environments that are not in the task table, from what Gymnasium knows of them."""

import json
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np

from dydiff.data.tasks import TASKS, Task, TerminationRule, never
from dydiff.utils.errors import UserError, first_line

# The rules of the table hold for every version of an environment.
_RULES = {task.env_id.partition("-")[0]: task.terminated for task in TASKS.values()}


def task_of(
    env_id: str,
    score_min: float | None = None,
    score_max: float | None = None,
    terminated: TerminationRule | None = None,
    mujoco2_contacts: bool = False,
    env_options: dict[str, Any] | None = None,
) -> Task:
    """The task of a Gymnasium id; what is not given comes from the task table, or from the environment itself.

    An environment outside the table has the score range 0 to 100, so that a score is a return, and no termination rule
    unless one is given: synthetic trajectories go on to their full length.

    Args:
        env_id: Gymnasium id; ``module:id`` imports the module first.
        score_min: Return of score 0.
        score_max: Return of score 100.
        terminated: Termination rule on raw states, ``(obs, act, next_obs) -> bool``.
        mujoco2_contacts: Whether to restore MuJoCo 2's contacts.
        env_options: Arguments of the environment that are not its usual ones.

    Raises:
        UserError: Gymnasium cannot make the environment, or its spaces are not continuous vectors.
    """
    known = None if env_options else next((task for task in TASKS.values() if task.env_id == env_id), None)
    task = known or _described(env_id, json.dumps(env_options or {}, sort_keys=True))
    given = {"score_min": score_min, "score_max": score_max, "terminated": terminated}
    chosen = {key: value for key, value in given.items() if value is not None}
    task = replace(task, mujoco2_contacts=mujoco2_contacts, **chosen)  # type: ignore[arg-type]
    if task.score_min >= task.score_max:
        raise UserError(f"score_min ({task.score_min}) must lie below score_max ({task.score_max}).")
    return task


@cache  # every source of a run asks
def _described(env_id: str, options_json: str) -> Task:
    options = json.loads(options_json)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = gym.make(env_id, **options)
    except Exception as error:  # an environment may raise anything
        raise UserError(
            f"Gymnasium cannot make '{env_id}' ({first_line(error)}). One that a package of your own registers is "
            f"'package:{env_id}'."
        ) from None
    limit = env.spec.max_episode_steps if env.spec is not None else None
    observations, actions = _flat(env.observation_space), env.action_space
    env.close()
    if observations is None:
        raise UserError(f"The states of {env_id} are {env.observation_space}, not vectors of numbers.")
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1 or not actions.is_bounded():
        raise UserError(f"The actions of {env_id} are {actions}; the agents need bounded vectors of numbers.")
    if limit is None:
        raise UserError(f"{env_id} has no max_episode_steps: register it with one, so that an evaluation ends.")
    unit = bool((actions.low == -1).all() and (actions.high == 1).all())
    bounds = None if unit else (tuple(actions.low.tolist()), tuple(actions.high.tolist()))
    rule = _RULES.get(env_id.rpartition(":")[2].partition("-")[0], never)
    return Task(env_id, env_id, observations, len(actions.low), limit, rule, 0.0, 100.0, False, bounds, options)


def _flat(space: gym.Space[Any]) -> int | None:
    """Numbers of a state: of a vector, or of a dictionary's vectors side by side."""
    if isinstance(space, gym.spaces.Dict):
        sizes = [_flat(part) for part in space.values()]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    return space.shape[0] if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 else None


def to_unit_actions(act: np.ndarray, bounds: tuple[tuple[float, ...], tuple[float, ...]] | None) -> np.ndarray:
    """Actions ``[N, A]`` within ``bounds`` to [-1, 1]."""
    if bounds is None:
        return act
    low, high = (np.array(bound, np.float32) for bound in bounds)
    return (act - low) / (high - low) * 2 - 1


def from_unit_actions(act: np.ndarray, bounds: tuple[tuple[float, ...], tuple[float, ...]] | None) -> np.ndarray:
    """Actions ``[N, A]`` in [-1, 1] to ``bounds``."""
    if bounds is None:
        return act
    low, high = (np.array(bound, np.float32) for bound in bounds)
    return low + (act + 1) / 2 * (high - low)
