"""D4RL's Maze2d: a ball that is pushed through a maze to a goal, on Gymnasium and MuJoCo.

A position counts in cells, x along the maze's rows and y along its columns, but a cell's centre is at (row - 0.2,
column - 0.2): the ball's body stands at 1.2 where the walls count from 1. Goals and starts are at whole numbers all the
same, as in D4RL.
"""

import tempfile
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray

from dydiff.data.tasks import MAZE2D
from dydiff.envs.contacts import restore_mujoco2_contacts

Array = NDArray[np.float64]

MAZES = {
    "umaze": "#####|#GOO#|###O#|#OOO#|#####",
    "medium": "########|#OO##OO#|#OO#OOO#|##OOO###|#OO#OOO#|#O#OO#O#|#OOO#OG#|########",
    "large": (
        "############|#OOOO#OOOOO#|#O##O#O#O#O#|#OOOOOO#OOO#|#O####O###O#|"
        "#OO#O#OOOOO#|##O#O#O#O###|#OO#OOO#OGO#|############"
    ),
}
"""D4RL's mazes, rows parted by ``|``: ``#`` wall, ``O`` free, ``G`` goal."""

GOAL_RADIUS = 0.5
MAX_VELOCITY = 5.0
START_NOISE = 0.1


class Maze2dEnv(MujocoEnv):
    """``maze2d-{umaze,medium,large}[-dense]-v1``, with the physics of D4RL's own model and MuJoCo 2's contacts.

    Observations are position and velocity, ``[4]``; actions are forces in [-1, 1], ``[2]``. An episode never
    terminates: the ball collects reward for as long as it stays at the goal.

    Args:
        maze: Name of the maze.
        dense: Reward ``exp(-distance to the goal)`` instead of 1 within 0.5 of it.
        render_mode: Gymnasium's.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["human", "rgb_array", "depth_array"],
        "render_fps": 100,
    }

    def __init__(self, maze: str = "umaze", dense: bool = False, render_mode: str | None = None, **kwargs: Any) -> None:
        self.maze = maze
        self.dense = dense
        rows = MAZES[maze].split("|")
        self.cells = [(x, y) for x, row in enumerate(rows) for y, kind in enumerate(row) if kind != "#"]
        self.goal = np.array(next((x, y) for x, row in enumerate(rows) for y, kind in enumerate(row) if kind == "G"))
        camera = {"distance": 1.5 * max(len(rows), len(rows[0])), "elevation": -90.0, "azimuth": 0.0}
        camera["lookat"] = np.array([(len(rows) + 1) / 2, (len(rows[0]) + 1) / 2, 0.0])  # type: ignore[assignment]
        observations = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(model_xml(rows))
            file.flush()
            super().__init__(
                file.name,
                1,
                observations,
                render_mode,
                default_camera_config=camera,
                **kwargs,
            )
        restore_mujoco2_contacts(self.model)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        velocity = np.clip(self.data.qvel, -MAX_VELOCITY, MAX_VELOCITY)
        self.set_state(self.data.qpos, velocity)
        self.do_simulation(np.clip(action, -1.0, 1.0), self.frame_skip)
        obs = self._get_obs()
        if self.render_mode == "human":
            self.render()
        return obs, self.reward(obs), False, False, {}

    def reward(self, obs: Array) -> float:
        """Reward of reaching a state."""
        distance = float(np.linalg.norm(obs[:2] - self.goal))
        return float(np.exp(-distance)) if self.dense else float(distance <= GOAL_RADIUS)

    def reset_model(self) -> Array:
        cell = np.array(self.cells[self.np_random.integers(len(self.cells))], dtype=np.float64)
        position = cell + self.np_random.uniform(-START_NOISE, START_NOISE, 2)
        self.set_state(position, START_NOISE * self.np_random.standard_normal(2))
        return self._get_obs()

    def _get_obs(self) -> Array:
        return np.concatenate([self.data.qpos, self.data.qvel])


def model_xml(rows: list[str]) -> str:
    """D4RL's MuJoCo model of a maze."""
    walls = "".join(
        f'<geom type="box" contype="1" pos="{x + 1} {y + 1} 0" size="0.5 0.5 0.2" rgba="0.6 0.4 0.3 1"/>\n'
        for x, row in enumerate(rows)
        for y, kind in enumerate(row)
        if kind == "#"
    )
    goal_x, goal_y = next((x, row.index("G")) for x, row in enumerate(rows) if "G" in row)
    return f"""<mujoco model="maze2d">
  <compiler inertiafromgeom="true" angle="radian"/>
  <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
  <default>
    <joint damping="1" limited="false"/>
    <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
  </default>
  <worldbody>
    <light directional="true" pos="0 0 10" dir="0 0 -1"/>
    <geom type="plane" contype="1" conaffinity="0" pos="0 0 -0.1" size="40 40 0.25" rgba="0.9 0.9 0.9 1"/>
    <body name="ball" pos="1.2 1.2 0">
      <geom type="sphere" contype="1" size="0.1" rgba="0 0 1 1"/>
      <joint name="ball_x" type="slide" pos="0 0 0" axis="1 0 0"/>
      <joint name="ball_y" type="slide" pos="0 0 0" axis="0 1 0"/>
    </body>
    <site type="sphere" pos="{goal_x + 1.2} {goal_y + 1.2} 0" size="0.2" rgba="1 0 0 0.7"/>
    {walls}
  </worldbody>
  <actuator>
    <motor joint="ball_x" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
    <motor joint="ball_y" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
  </actuator>
</mujoco>
"""


def register() -> None:
    """Make the environments known to Gymnasium under D4RL's ids."""
    for task in MAZE2D:
        _, maze, *dense = task.name.split("-")
        gym.register(
            task.env_id,
            "dydiff.envs.maze2d:Maze2dEnv",
            max_episode_steps=task.episode_limit,
            kwargs={"maze": maze, "dense": bool(dense)},
        )
