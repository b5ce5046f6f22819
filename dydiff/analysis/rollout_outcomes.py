"""Compare synthetic with real rollouts: terminations, returns, and the effect of a filter on both."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dydiff.agents.base import Agent, load_agent
from dydiff.data.episodes import Trajectories
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.data.termination import ended
from dydiff.envs.real_rollout import held_out_starts, real_next_states, restorable
from dydiff.rollout.base import Synthesizer
from dydiff.rollout.filters import Filter, Hardmax
from dydiff.rollout.real import RealRollouts
from dydiff.utils.errors import UserError
from dydiff.utils.output import markdown_table, write_csv


class Outcomes(NamedTuple):
    """How made rollouts compare with the real ones from the same states.

    Attributes:
        terminal: Share of made rollouts that end in a terminal state.
        really_terminal: Share of the real ones.
        found: Of those that really end, the share that ends as made.
        false_alarms: Of those that do not terminate in reality, the share that terminates in the model.
        made_return: Mean return, as made.
        real_return: Mean return, really.
        correlation: Of the two returns, over rollouts.
        made_return_kept: Mean return of what the filter keeps, as made.
        real_return_kept: Mean return of the same rollouts, really.
        really_terminal_kept: Share of what the filter keeps that really ends.
    """

    terminal: float
    really_terminal: float
    found: float
    false_alarms: float
    made_return: float
    real_return: float
    correlation: float
    made_return_kept: float
    real_return_kept: float
    really_terminal_kept: float


def compare(made: Trajectories, real: Trajectories, kept: Tensor) -> Outcomes:
    """Compare made and real rollouts ``[N, L]`` of the same start states, with rewards by one model.

    Args:
        made: The made ones.
        real: The real ones.
        kept: Indices of those that a filter keeps.
    """
    ends, really = made.terminal.any(1), real.terminal.any(1)
    together = torch.stack([made.returns, real.returns])
    metrics = (
        ends, really, ends[really], ends[~really], made.returns, real.returns, torch.corrcoef(together)[0, 1],
        made.returns[kept], real.returns[kept], really[kept],
    )  # fmt: skip
    return Outcomes(*(float(metric.float().mean()) for metric in metrics))


def value_bias(made: Trajectories, task: Task, value: Callable[[Tensor], Tensor], count: int) -> tuple[float, float]:
    """What made next states are worth beyond those that really follow from the same states and actions.

    Each transition adds as much to the value that is learned from it; the sum over an endless chain of such is its mean
    divided by ``1 - gamma``.

    Args:
        made: Trajectories; a random ``count`` of their transitions is played in the real environment.
        task: The task.
        value: Values ``[n]`` of states ``[n, O]``; a terminal state is worth nothing.
        count: Transitions.

    Returns:
        The mean, and its standard error; transitions of one rollout may err together, rollouts are independent.
    """
    transitions, rollouts = made.transitions(), made.valid.nonzero()[:, 0]
    usable = restorable(task, transitions.obs).nonzero()[:, 0]
    chosen = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(0))[:count]]
    obs, act, _, next_obs, terminal = transitions.at(chosen)
    true = real_next_states(task, obs, act)
    really_terminal = ended(task.terminated, obs, act, true)
    excess = value(next_obs).masked_fill(terminal, 0.0) - value(true).masked_fill(really_terminal, 0.0)
    deviations = torch.zeros(len(made.reward)).index_add(0, rollouts[chosen], excess - excess.mean())
    return float(excess.mean()), float(deviations.norm() / len(excess))


@torch.no_grad()
def rollout_outcomes(
    source: EpisodeSource,
    synthesizers: dict[str, Synthesizer],
    agent: Agent,
    checkpoint: str,
    filter: Filter | None = None,
    num_trajectories: int = 1000,
    num_transitions: int = 5000,
    holdout_fraction: float = 0.1,
    seed: int = 0,
    out: str = "runs/rollout_outcomes",
) -> None:
    """Compare terminations and returns of synthetic rollouts with those of the real environment, from the same states.

    A model that misses the policy's terminations, or predicts too high returns, misleads the agent, however small its
    mean error. So does one whose errors the agent values: ``value_bias`` (:func:`value_bias`) is over what the filter
    keeps, by the agent's own critics. Writes ``<out>/<dataset>.csv`` and prints a table. Rewards of both are the reward
    model's, so only the states differ.

    Args:
        source: The dataset; its held-out episodes give the start states.
        synthesizers: What to compare, by name; each has a reward model.
        agent: The agent whose policy is rolled out.
        checkpoint: Its checkpoint.
        filter: Keeps a share of the rollouts; ``null`` uses the hardmax filter.
        num_trajectories: Rollouts.
        num_transitions: Transitions that the value bias is the mean over.
        holdout_fraction: That of the pretrained models, so that the start states are held out for them.
        seed: Seed of start states and rollouts.
        out: Folder of the result.

    Raises:
        UserError: No held-out state that the simulator can be set to, or a synthesizer without a reward model.
    """
    load_agent(agent, checkpoint, source.task)
    starts = held_out_starts(source, holdout_fraction, num_trajectories, seed)
    policy, filter, outcomes, biases = agent.policy(sample=False), filter or Hardmax(), {}, {}
    for name, synthesizer in synthesizers.items():
        if not hasattr(synthesizer, "reward"):
            raise UserError(f"'{name}' has no reward model to judge the real rollouts by: compare others.")
        synthesizer.attach(source)
        made, reported = synthesizer.synthesize(policy, starts, torch.Generator().manual_seed(seed))
        truth = RealRollouts(synthesizer.reward, made.act.shape[1])
        truth.attach(source)
        kept = filter.choose(made, torch.Generator().manual_seed(0), metrics=reported)
        outcomes[name] = compare(made, truth.synthesize(policy, starts)[0], kept)
        biases[name] = value_bias(made.at(kept), source.task, policy.value, num_transitions)
    path, columns = Path(out, f"{source.name}.csv"), (*Outcomes._fields, "value_bias", "value_bias_error")
    metrics = {name: (*outcomes[name], *biases[name]) for name in synthesizers}
    write_csv(path, ["synthesizer", *columns], ([name, *each] for name, each in metrics.items()))
    table = [[name, *(f"{metric:.3g}" for metric in each)] for name, each in metrics.items()]
    print("\n".join(markdown_table(["", *(column.replace("_", " ") for column in columns)], table)))
    print(f"Written to {path}")
