"""Tasks of environments that are not in the task table, from what Gymnasium knows of them."""

import json
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from dydiff.data.tasks import TASKS, Task
from dydiff.data.termination import TerminationRule, never, rule_of, unknown
from dydiff.utils.errors import UserError, first_line

# Gymnasium's wrappers that leave the states as the environment shows them.
_STATE_PRESERVING = {
    "ClipAction", "ClipReward", "NormalizeReward", "OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics",
    "RescaleAction", "StickyAction", "TimeLimit", "TransformAction", "TransformReward",
}  # fmt: skip
_WIDEST_ACTIONS = 1e6  # bounds further apart are none: ordinary actions would all become 0 in [-1, 1]


def task_of(
    env_id: str,
    score_min: float | None = None,
    score_max: float | None = None,
    terminated: TerminationRule | None = None,
    mujoco2_contacts: bool = False,
    env_options: dict[str, Any] | None = None,
    env_spec: str | None = None,
) -> Task:
    """The task of a Gymnasium id; what is not given comes from the task table, or from the environment itself.

    An environment outside the table has the score range 0 to 100, so that a score is a return. Its termination rule is
    known where it is one of Gymnasium's MuJoCo environments (:func:`~dydiff.data.termination.rule_of`); elsewhere
    synthetic trajectories have their full length, unless a rule is given.

    Args:
        env_id: Gymnasium id; ``module:id`` imports the module first.
        score_min: Return of score 0.
        score_max: Return of score 100.
        terminated: Termination rule on raw states, ``(obs [N, O], act [N, A], next_obs [N, O]) -> bool [N]``.
            :func:`~dydiff.data.termination.never` also means that recorded terminals are ignored.
        mujoco2_contacts: Whether to restore MuJoCo 2's contacts.
        env_options: Arguments of the environment that are not its usual ones.
        env_spec: Gymnasium's specification as JSON, with arguments and wrappers; replaces ``env_options``.

    Raises:
        UserError: Gymnasium cannot make the environment, its spaces are not continuous vectors, or its actions have no
            usable bounds.
    """
    stock = not env_options and env_spec is None
    known = next((task for task in TASKS.values() if stock and task.env_id == env_id), None)
    task = known or _described(env_id, json.dumps(env_options or {}, sort_keys=True), env_spec)
    given = {"score_min": score_min, "score_max": score_max, "terminated": terminated}
    chosen = {key: value for key, value in given.items() if value is not None}
    if terminated is never:
        chosen["ignore_terminals"] = True
    task = replace(task, mujoco2_contacts=mujoco2_contacts, **chosen)  # type: ignore[arg-type]
    if task.score_min >= task.score_max:
        raise UserError(f"score_min ({task.score_min}) must be less than score_max ({task.score_max}).")
    return task


@cache  # every source of a run calls this
def _described(env_id: str, options_json: str, env_spec: str | None) -> Task:
    options = json.loads(options_json)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = gym.make(env_id if env_spec is None else EnvSpec.from_json(env_spec), **options)
    except Exception as error:  # an environment may raise anything
        raise UserError(
            f"Gymnasium cannot make '{env_id}' ({first_line(error)}). An environment that another package registers is "
            f"'package:{env_id}'."
        ) from None
    env.close()
    spec = env.spec
    states, actions = flat_width(env.observation_space), env.action_space
    if states is None:
        raise UserError(f"The states of {env_id} are {env.observation_space}, not vectors of numbers.")
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1 or not actions.is_bounded():
        raise UserError(f"The actions of {env_id} are {actions}; the agents need bounded vectors of numbers.")
    if flaw := _bounds_flaw(actions):
        raise UserError(f"The action bounds of {env_id} are not usable: {flaw}.")
    if spec is None or spec.max_episode_steps is None:
        raise UserError(f"{env_id} has no max_episode_steps: register it with one, so that an evaluation ends.")
    unit = bool((actions.low == -1).all() and (actions.high == 1).all())
    bounds = None if unit else (tuple(actions.low.tolist()), tuple(actions.high.tolist()))
    wrappers = {wrapper.name for wrapper in spec.additional_wrappers}
    rule = rule_of(env.unwrapped) if wrappers <= _STATE_PRESERVING else None
    return Task(
        env_id,
        env_id,
        states,
        len(actions.low),
        spec.max_episode_steps,
        rule or unknown,
        0.0,
        100.0,
        False,
        bounds,
        options,
        env_spec,
    )


def _bounds_flaw(actions: gym.spaces.Box) -> str | None:
    """The reason why ``[-1, 1]`` cannot be scaled to the bounds; ``None`` if it can."""
    for column, (low, high) in enumerate(zip(actions.low.tolist(), actions.high.tolist(), strict=True)):
        if not low < high:
            return f"action {column} can only be {low:g}; remove it from the environment and from the data"
        if high - low > _WIDEST_ACTIONS:
            return (
                f"action {column} is unbounded in effect, from {low:g} to {high:g}; give the environment the bounds "
                "that its actions have"
            )
    return None


def flat_width(space: gym.Space[Any]) -> int | None:
    """Numbers of a state: of a vector, or of a dictionary's vectors side by side; ``None`` for any other space."""
    if isinstance(space, gym.spaces.Dict):
        sizes = [flat_width(part) for part in space.values()]
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
