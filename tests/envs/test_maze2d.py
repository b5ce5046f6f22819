"""D4RL's Maze2d: physics against MuJoCo 2, mazes, rewards, starts and limits."""

import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT
from gymnasium.utils.env_checker import check_env

from dydiff.data.tasks import MAZE2D
from dydiff.envs import make_env
from dydiff.envs.maze2d import MAZES

EVERY_MAZE = pytest.mark.parametrize("maze", MAZES)
GOALS = {"umaze": (1, 1), "medium": (6, 6), "large": (7, 9)}
FREE_CELLS = {"umaze": 7, "medium": 26, "large": 46}


@EVERY_MAZE
def test_one_step_equals_d4rls_model_on_mujoco_2(golden, maze):
    physics = golden("mujoco2_physics")
    env = gym.make(f"maze2d-{maze}-v1").unwrapped
    env.reset(seed=0)
    arrays = (physics[f"maze2d_{maze}/{key}"].numpy() for key in ("state", "action", "next_state"))
    worst = 0.0
    for state, action, expected in zip(*arrays, strict=True):
        env.data.qacc_warmstart[:] = 0
        env.set_state(state[:2], state[2:])
        env.data.qacc_warmstart[:] = 0
        worst = max(worst, np.abs(env.step(action)[0] - expected).max())
    assert worst < 1e-6


@EVERY_MAZE
def test_the_maze_is_d4rls(maze):
    env = gym.make(f"maze2d-{maze}-v1").unwrapped
    assert tuple(env.goal) == GOALS[maze] and len(env.cells) == FREE_CELLS[maze]
    starts = np.stack([env.reset(seed=seed)[0] for seed in range(400)])
    cells = np.round(starts[:, :2])
    assert {tuple(cell) for cell in cells.astype(int)} == set(env.cells)  # the goal's cell, too
    assert np.abs(starts[:, :2] - cells).max() <= 0.1
    assert starts[:, 2:].std() == pytest.approx(0.1, rel=0.1)


def test_velocity_reaches_what_public_data_show():
    """One step from the clip at 5: 5 + 0.01 (100 - 5) / (mass + 0.01 damping)."""
    env = gym.make("maze2d-large-v1").unwrapped
    env.reset(seed=0)
    env.set_state(np.array([1.0, 1.0]), np.array([0.0, 9.0]))
    assert env.step(np.array([0.0, 7.0]))[0][3] == pytest.approx(5.2262554, abs=1e-6)


def test_rewards_are_of_the_state_that_is_reached():
    sparse, dense = (gym.make(f"maze2d-umaze{kind}-v1").unwrapped for kind in ("", "-dense"))
    for env in (sparse, dense):
        env.reset(seed=0)
    for distance, inside in ((0.49, 1.0), (0.52, 0.0)):
        for env, expected in ((sparse, inside), (dense, np.exp(-distance))):
            env.set_state(np.array([1.0, 1.0 + distance]), np.zeros(2))
            assert env.step(np.zeros(2))[1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("task", MAZE2D, ids=lambda task: task.name)
def test_episodes_end_at_their_limit_alone(task):
    env = make_env(task)
    env.action_space.seed(0)
    env.reset(seed=0)
    for step in range(1, task.episode_limit + 1):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert not terminated and truncated == (step == task.episode_limit)


RENDER = """
import sys
import gymnasium as gym, numpy as np
import dydiff.envs
env = gym.make("maze2d-umaze-v1", render_mode="rgb_array")
env.reset(seed=0)
try:
    frames = [env.render()]
except Exception as error:
    sys.exit(f"no OpenGL here: {error}")
for cell in ((3.0, 3.0), (3.0, 1.0)):
    env.unwrapped.set_state(np.array(cell), np.zeros(2))
    frames.append(env.render())
blue = [np.argwhere((frame[..., 2] > 200) & (frame[..., 0] < 60)).mean(0) for frame in frames[1:]]
print(frames[0].shape, abs(blue[0] - blue[1]).max() > 50)
"""


def test_it_renders_the_ball_where_it_is():
    environment = {**os.environ, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}
    child = subprocess.run(
        [sys.executable, "-c", RENDER],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "no OpenGL" in child.stderr or "OpenGL" in child.stderr.splitlines()[-1:]:
        pytest.skip(child.stderr.splitlines()[-1])
    assert child.stdout.strip() == "(480, 480, 3) True", child.stderr


def test_gymnasium_finds_nothing_wrong():
    check_env(gym.make("maze2d-umaze-v1").unwrapped, skip_render_check=True)
