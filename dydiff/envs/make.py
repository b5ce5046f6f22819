"""Make the environment of a task."""

import warnings
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import ClipAction, FlattenObservation, RescaleAction

from dydiff.data.tasks import Task
from dydiff.envs.contacts import restore_mujoco2_contacts
from dydiff.envs.maze2d import Maze2dEnv


def make_env(task: Task, **options: Any) -> gym.Env:
    """The environment of a task, with the wrappers that its data were recorded with.

    Actions are clipped to [-1, 1] and stretched to the environment's own bounds, states are vectors, episodes are cut
    at the task's limit.

    With ``task.mujoco2_contacts`` it has the contacts of MuJoCo 2 again, which version 3.5 changed: stock ``Hopper-v4``
    differs from D4RL's in 43% of states. HalfCheetah and Walker2d have no margins; Maze2d has MuJoCo 2's always.

    Args:
        task: The task.
        options: Further arguments of the environment, such as ``render_mode``.
    """
    made_of = task.env_id if task.env_spec is None else EnvSpec.from_json(task.env_spec)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of date.*")  # D4RL's physics are v4's
        mujoco.set_mju_user_warning(lambda message: None)  # a warning about the model, once for each environment
        try:
            env = gym.make(made_of, max_episode_steps=task.episode_limit, **(task.env_options | options))
        finally:
            mujoco.set_mju_user_warning(None)
    simulator: Any = env.unwrapped
    if task.mujoco2_contacts and not isinstance(simulator, Maze2dEnv):
        restore_mujoco2_contacts(simulator.model)
    if isinstance(env.observation_space, gym.spaces.Dict):
        env = FlattenObservation(env)
    return ClipAction(env if task.act_bounds is None else RescaleAction(env, np.float32(-1), np.float32(1)))
