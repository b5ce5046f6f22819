"""D4RL's waypoint controller for Maze2d: shortest paths over the cells, followed by a PD controller."""

from collections import deque
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dydiff.envs.maze2d import MAZES

Array = NDArray[np.float64]
Cell = tuple[int, int]

POSITION_GAIN = 10.0
VELOCITY_GAIN = -1.0
REACHED = 0.1
MOVES = (
    (0, 0),
    (0, -1),
    (0, 1),
    (-1, 0),
    (1, 0),
)  # among equally short paths, D4RL's value iteration chooses the first


class WaypointController:
    """Steers the ball to targets, cell by cell.

    Args:
        maze: Name of the maze.
        uniform: Draws ``[2]`` numbers in [0, 1), which shift each waypoint but the last towards its cell's centre.
    """

    def __init__(self, maze: str, uniform: Callable[[], Array]) -> None:
        self.maze = maze
        self.uniform = uniform
        self.target: Cell | None = None
        self.waypoints: list[Array] = []
        self.index = 0
        self.last_position: Array = np.zeros(2)

    def __call__(self, position: Array, velocity: Array, target: Array) -> tuple[Array, bool]:
        """Action ``[2]`` in [-1, 1], and whether the target's cell is reached, by its integer coordinates.

        A new path is planned only when the target is in another cell than before.
        """
        cell = _cell_of(target)
        if cell != self.target:
            self._plan(_cell_of(position), cell)
        settled = bool(np.linalg.norm(self.last_position - position) < REACHED)  # false at once after a new target
        goal = np.array(cell, dtype=np.float64)
        reached = bool(np.linalg.norm(position - goal) < REACHED) and settled
        waypoint = goal if reached else self.waypoints[self.index]
        action = POSITION_GAIN * (waypoint - position) + VELOCITY_GAIN * velocity
        if not reached and settled and np.linalg.norm(position - waypoint) < REACHED:
            self.index += 1
        self.last_position = position
        return np.clip(action, -1.0, 1.0), reached

    def _plan(self, start: Cell, target: Cell) -> None:
        cells = _shortest_way(self.maze, start, target)
        self.waypoints = [np.array(cell) - (0.0 if cell == target else 0.2 * self.uniform()) for cell in cells]
        self.index = 0
        self.last_position = np.array(start, dtype=np.float64)
        self.target = target


def _cell_of(position: Array) -> Cell:
    return round(float(position[0])), round(float(position[1]))


@cache
def _shortest_way(maze: str, start: Cell, target: Cell) -> list[Cell]:
    """The cells after ``start`` up to ``target``; only the target if it equals the start."""
    distances = _distances(maze, target)
    way, cell = [], start
    while True:
        steps = [(cell[0] + dx, cell[1] + dy) for dx, dy in MOVES]
        cell = min((step for step in steps if step in distances), key=distances.__getitem__)
        way.append(cell)
        if cell == target:
            return way


@cache
def _distances(maze: str, target: Cell) -> dict[Cell, int]:
    rows = MAZES[maze].split("|")
    distances, queue = {target: 0}, deque([target])
    while queue:
        x, y = queue.popleft()
        for dx, dy in MOVES[1:]:
            cell = (x + dx, y + dy)
            if cell not in distances and rows[cell[0]][cell[1]] != "#":
                distances[cell] = distances[(x, y)] + 1
                queue.append(cell)
    return distances
