"""Maze2d datasets by D4RL's recipe: the waypoint controller walks to one random cell after the other."""

from pathlib import Path

import gymnasium as gym
import numpy as np
from rich.progress import track

from dydiff.collect.waypoints import WaypointController
from dydiff.collect.writer import write_dataset
from dydiff.envs.maze2d import MAZES, Maze2dEnv
from dydiff.utils.errors import UserError, at_least, did_you_mean


def collect_maze2d(
    maze: str = "umaze",
    dense: bool = False,
    num_transitions: int = 1_000_000,
    action_noise: float = 0.5,
    seed: int = 0,
    out: str | None = None,
    progress: bool = True,
) -> Path:
    """Collect a Maze2d dataset as D4RL's were: the ball walks to random cells, without a reset between them.

    ``timeouts`` mark where a walk ends: the cell is reached, or the episode's limit has passed. ``rewards`` are of
    the state before the action, as in D4RL's files, for the maze's fixed goal.

    Args:
        maze: ``umaze``, ``medium`` or ``large``.
        dense: The dense reward.
        num_transitions: Transitions; D4RL has 1, 2 and 4 million.
        action_noise: Standard deviation of the noise on the controller's actions; D4RL's files look as if made with
            0.5.
        seed: Of starts, targets and noise.
        out: The file; ``null`` names it after the recipe in the working directory.
        progress: Show a progress bar.

    Returns:
        The file.

    Raises:
        UserError: An unknown maze, or a number out of its range.
    """
    if maze not in MAZES:
        raise UserError(f"Unknown maze '{maze}'.{did_you_mean(maze, MAZES)}")
    at_least(1, num_transitions=num_transitions)
    at_least(0, action_noise=action_noise)
    env_id = f"maze2d-{maze}{'-dense' if dense else ''}-v1"
    path = Path(out or f"{env_id[:-3]}-waypoint-{num_transitions // 1000}k.hdf5")
    env = gym.make(env_id)
    assert env.spec is not None and env.spec.max_episode_steps is not None
    limit = env.spec.max_episode_steps
    simulator = env.unwrapped
    assert isinstance(simulator, Maze2dEnv)
    random = np.random.default_rng(seed)
    controller = WaypointController(maze, lambda: random.random(2))
    observations = np.empty((num_transitions + 1, 4), np.float32)
    actions = np.empty((num_transitions, 2), np.float32)
    goals = np.empty((num_transitions, 2), np.float32)
    rewards = np.empty(num_transitions, np.float32)
    timeouts = np.zeros(num_transitions, bool)
    obs, target = simulator.reset(seed=seed)[0], _target(simulator, random)
    walked = 0
    rows = range(num_transitions)
    for row in track(rows, f"Collecting {env_id}", update_period=0.5) if progress else rows:
        action, reached = controller(obs[:2], obs[2:], target)
        action = np.clip(action + action_noise * random.standard_normal(2), -1.0, 1.0)
        observations[row], actions[row], goals[row] = obs, action, target
        rewards[row] = simulator.reward(obs)
        obs = simulator.step(action)[0]
        walked += 1
        if reached or walked > limit:
            timeouts[row] = True
            target, walked = _target(simulator, random), 0
    observations[-1] = obs
    env.close()
    arrays = {
        "observations": observations[:-1],
        "actions": actions,
        "rewards": rewards,
        "next_observations": observations[1:],
        "terminals": np.zeros(num_transitions, bool),
        "timeouts": timeouts,
        "infos/goal": goals,
        "infos/qpos": observations[:-1, :2],
        "infos/qvel": observations[:-1, 2:],
    }
    recipe = f"waypoint controller, action noise {action_noise}, seed {seed}; not D4RL's file"
    write_dataset(path, arrays, env_id, recipe)
    return path


def _target(simulator: Maze2dEnv, random: np.random.Generator) -> np.ndarray:
    """A random free cell, 0.1 away from its integer coordinates."""
    return np.array(simulator.cells[random.integers(len(simulator.cells))]) + random.uniform(-0.1, 0.1, 2)
