"""Real and synthetic rollouts of a policy, state by state over time."""

from pathlib import Path

import torch

from dydiff.agents.base import Agent, load_agent
from dydiff.data.source import EpisodeSource
from dydiff.envs.real_rollout import held_out_starts, real_rollout
from dydiff.rollout.base import Synthesizer
from dydiff.utils.errors import UserError
from dydiff.utils.output import new_figure, save_figure


@torch.no_grad()
def state_trajectories(
    source: EpisodeSource,
    synthesizers: dict[str, Synthesizer],
    agent: Agent,
    checkpoint: str,
    dimensions: list[int],
    num_trajectories: int = 4,
    holdout_fraction: float = 0.1,
    seed: int = 0,
    out: str = "runs/state_trajectories",
) -> None:
    """Draw dimensions of the state over time, in the real environment and as each synthesizer makes them.

    Writes ``<out>/<dataset>.png``: a row for each dimension, a column for each start state.

    Args:
        source: The dataset; its held-out episodes give the start states.
        synthesizers: What to draw, by name.
        agent: The agent whose policy is rolled out.
        checkpoint: Its checkpoint.
        dimensions: Which dimensions of the state.
        num_trajectories: Start states.
        holdout_fraction: That of the pretrained models, so that the start states are held out for them.
        seed: Seed of start states and rollouts.
        out: Folder of the plot.

    Raises:
        UserError: No such dimension, or no held-out state that the simulator can be set to.
    """
    task = source.task
    if wrong := [dimension for dimension in dimensions if not 0 <= dimension < task.obs_dim]:
        raise UserError(f"The states of {task.name} have {task.obs_dim} dimensions, from 0 on: there is no {wrong[0]}.")
    load_agent(agent, checkpoint, task)
    starts = held_out_starts(source, holdout_fraction, num_trajectories, seed)
    policy, made = agent.policy(sample=False), {}
    for name, synthesizer in synthesizers.items():
        synthesizer.attach(source)
        made[name] = synthesizer.synthesize(policy, starts, torch.Generator().manual_seed(seed))[0].obs
    length = max(states.shape[1] for states in made.values()) - 1
    real, _, alive = real_rollout(task, starts, policy, length)
    figure = new_figure(3 * len(starts), 2.2 * len(dimensions))
    panels = figure.subplots(len(dimensions), len(starts), sharex=True, squeeze=False)
    for row, dimension in zip(panels, dimensions, strict=True):
        for column, axes in enumerate(row):
            end = int(alive[column].sum()) + 1
            axes.plot(real[column, :end, dimension], color="black", linewidth=2, label="real")
            for name, states in made.items():
                axes.plot(states[column, :end, dimension], label=name)
            axes.grid(alpha=0.3)
        row[0].set_ylabel(f"state {dimension}")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    panels[0, 0].legend(fontsize=8)
    figure.suptitle(f"{source.name}: rollouts of a {type(agent).__name__} policy")
    path = Path(out, f"{source.name}.png")
    save_figure(figure, path)
    print(f"Written to {path}")
