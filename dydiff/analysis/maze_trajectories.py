"""Trajectories drawn over a maze: what the policy really does, and what a synthesizer makes of it."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dydiff.agents.base import Agent, load_agent
from dydiff.data.source import EpisodeSource
from dydiff.envs.maze2d import MAZES
from dydiff.envs.real_rollout import real_rollout
from dydiff.rollout.base import Synthesizer
from dydiff.utils.errors import UserError
from dydiff.utils.output import new_figure, save_figure


def maze_trajectories(
    source: EpisodeSource,
    synthesizer: Synthesizer,
    agent: Agent,
    checkpoint: str,
    num_trajectories: int = 40,
    seed: int = 0,
    out: str = "runs/maze_trajectories",
) -> None:
    """Draw real and synthetic rollouts of a policy, from the same start states, over their maze.

    Writes ``<out>/<dataset>.png``, and prints the distance between the two and the share of synthetic states in walls.

    Args:
        source: A Maze2d dataset; it gives the start states.
        synthesizer: Makes the synthetic rollouts.
        agent: The agent.
        checkpoint: Its checkpoint.
        num_trajectories: Rollouts of each kind.
        seed: Seed of start states and rollouts.
        out: Folder of the plot.

    Raises:
        UserError: The dataset is not of a maze, or the checkpoint is of another task.
    """
    task = source.task
    if not task.name.startswith("maze2d"):
        raise UserError(f"maze_trajectories draws mazes; {source.name} is of {task.env_id}.")
    load_agent(agent, checkpoint, task)
    synthesizer.attach(source)
    states = source.load().transitions.obs
    generator = torch.Generator().manual_seed(seed)
    start = states[torch.randint(len(states), (num_trajectories,), generator=generator)]
    policy = agent.policy(sample=False)
    with torch.no_grad():
        made = synthesizer.synthesize(policy, start, generator)[0]
        real = real_rollout(task, start, policy, synthesizer.rollout_length)[0]
    walls = [list(row) for row in MAZES[task.name.split("-")[1]].split("|")]
    path = Path(out) / f"{source.name}.png"
    _draw({"real": real, "synthetic": made.obs}, walls, path, f"{source.name}, {type(agent).__name__}")
    apart = torch.linalg.vector_norm(made.obs[..., :2] - real[..., :2], dim=-1)
    print(
        f"{num_trajectories} rollouts of {synthesizer.rollout_length} steps: apart by {apart.mean():.3f} cells on "
        f"average, {apart[:, -1].mean():.3f} at the end; {100 * _in_walls(made.obs, walls):.1f}% of the synthetic and "
        f"{100 * _in_walls(real, walls):.1f}% of the real states are in walls. Drawn in {path}"
    )


def _in_walls(states: Tensor, walls: list[list[str]]) -> float:
    """Share of positions inside of a wall's cell; cell (i, j) is centred at (i - 0.2, j - 0.2)."""
    cells = (states[..., :2] + 0.2).round().long().flatten(0, 1)
    blocked = torch.tensor([[kind == "#" for kind in row] for row in walls])
    inside = (cells >= 0).all(1) & (cells < torch.tensor(blocked.shape)).all(1)
    clamped = cells.clamp(min=0).minimum(torch.tensor(blocked.shape) - 1)
    return (blocked[clamped[:, 0], clamped[:, 1]] | ~inside).float().mean().item()


def _draw(kinds: dict[str, Tensor], walls: list[list[str]], path: Path, title: str) -> None:
    figure = new_figure(5.5 * len(kinds), 5.5)
    picture = np.array([[kind == "#" for kind in row] for row in walls])
    rows, columns = picture.shape
    for axes, (name, states) in zip(figure.subplots(1, len(kinds)), kinds.items(), strict=True):
        axes.imshow(picture, cmap="Greys", alpha=0.5, extent=(-0.7, columns - 0.7, rows - 0.7, -0.7))
        for positions in states[..., :2].numpy():
            axes.plot(positions[:, 1], positions[:, 0], linewidth=1)
            axes.plot(positions[0, 1], positions[0, 0], "o", color="black", markersize=3)
        goal = next((x, row.index("G")) for x, row in enumerate(walls) if "G" in row)
        axes.plot(goal[1], goal[0], "*", color="red", markersize=14)
        axes.set_title(name)
        axes.set_axis_off()
    figure.suptitle(title)
    save_figure(figure, path)
