"""Gymnasium's MuJoCo environments, as D4RL's data were collected in them."""

import warnings
from typing import Any

import gymnasium as gym
import mujoco
from gymnasium.wrappers import ClipAction

from dydiff.data.tasks import Task, find_task

_SUMS_MARGINS = (3, 5)  # MuJoCo 3.5 began to add the margins of two geoms, where their maximum was taken before


def make_env(task: Task | str) -> gym.Env:
    """The environment of a task, or of a task's name: actions clipped to [-1, 1], episodes cut at the task's limit.

    With ``task.mujoco2_contacts`` the contact margins are halved on MuJoCo 3.5 and newer, which gives the contacts of
    MuJoCo 2 again: stock ``Hopper-v4`` differs from D4RL's in 43% of states. HalfCheetah and Walker2d have no margins.

    Raises:
        UserError: No task of that name.
    """
    if isinstance(task, str):
        task = find_task(task)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of date.*")  # D4RL's physics are v4's
        env = gym.make(task.env_id, max_episode_steps=task.episode_limit)
    version = tuple(int(number) for number in mujoco.__version__.split(".")[:2])
    if task.mujoco2_contacts and version >= _SUMS_MARGINS:
        simulator: Any = env.unwrapped
        simulator.model.geom_margin[:] *= 0.5
    return ClipAction(env)
