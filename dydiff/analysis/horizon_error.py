"""Model error over the horizon, against the real environment (the paper's Fig. 3)."""

import csv
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dydiff.agents.base import Agent, load_agent
from dydiff.data.episodes import Episodes, EpisodeSource
from dydiff.data.tasks import Task
from dydiff.envs.replay import RecordedActions, real_rollout, restorable
from dydiff.errors import UserError
from dydiff.files import replacing
from dydiff.rollout.base import Policy, Synthesizer

_TITLES = {"recorded": "recorded actions", "policy": "the policy's real actions", "on-policy": "on-policy rollout"}


class Curve(NamedTuple):
    """Errors of one way to make states, for one way to choose actions.

    Attributes:
        actions: ``recorded``: the dataset's actions are given. ``policy``: the actions that the policy really took are
            given. ``on-policy``: nothing but the first state is given; the synthesizer's own rollout of the policy.
        synthesizer: Its name.
        errors: Squared error of the standardised states, mean over dimensions, ``[W, L]``; NaN after the real episode
            has ended.
        seconds: Time that making them took.
    """

    actions: str
    synthesizer: str
    errors: Tensor
    seconds: float

    @property
    def mean(self) -> Tensor:
        """Mean over windows, ``[L]``."""
        return self.errors.nanmean(0)

    @property
    def median(self) -> Tensor:
        """Median over windows, ``[L]``."""
        return self.errors.nanmedian(0).values


def measure(
    synthesizers: dict[str, Synthesizer],
    task: Task,
    episodes: Episodes,
    policy: Policy | None = None,
    num_windows: int = 1000,
    seed: int = 0,
) -> list[Curve]:
    """Make states by each synthesizer from held-out states, and compare them with the real environment's.

    Args:
        synthesizers: By name, attached to their dataset; all of the same ``rollout_length``.
        task: Their task; its environment is the truth.
        episodes: Where the windows come from; not the models' training episodes.
        policy: A policy to measure with besides the recorded actions.
        num_windows: Windows, spread over the episodes.
        seed: Seed of the windows and of each synthesizer.

    Raises:
        UserError: Rollouts of different lengths, or no episode that is long enough.
    """
    lengths = {synthesizer.rollout_length for synthesizer in synthesizers.values()}
    if len(lengths) != 1:
        raise UserError(f"The synthesizers to compare need one rollout_length, not {sorted(lengths)}.")
    horizon = lengths.pop()
    starts = episodes.window_starts(horizon)
    windows = episodes.windows(starts, horizon)
    usable = starts[windows.valid.all(1) & restorable(task, windows.obs[:, 0])]
    if len(usable) == 0:
        raise UserError(f"No held-out episode has {horizon} steps: shorten the rollouts or hold out more.")
    chosen = torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))[:num_windows]
    windows = episodes.windows(usable[chosen], horizon)
    start = windows.obs[:, 0]
    scale = episodes.transitions.obs.std(0, correction=0) + 1e-6

    def compare(actions: str, policy: Policy, truth: tuple[Tensor, Tensor, Tensor]) -> list[Curve]:
        obs, act, valid = truth
        curves = []
        for name, synthesizer in synthesizers.items():
            shown = policy if actions == "on-policy" else RecordedActions(act)
            begin = time.perf_counter()
            made = synthesizer.synthesize(shown, start, torch.Generator().manual_seed(seed))[0]
            seconds = time.perf_counter() - begin
            errors = ((made.obs[:, 1:horizon] - obs[:, 1:horizon]) / scale).square().mean(-1)
            curves.append(Curve(actions, name, errors.masked_fill(~valid[:, : horizon - 1], torch.nan), seconds))
        return curves

    recorded = RecordedActions(windows.act)
    curves = compare("recorded", recorded, real_rollout(task, start, recorded, horizon))
    if policy is not None:
        truth = real_rollout(task, start, policy, horizon)
        curves += compare("policy", policy, truth) + compare("on-policy", policy, truth)
    return curves


def crossing(curve: Curve, reference: Curve) -> int | None:
    """First step from which the curve's mean error stays below the reference's, or ``None``."""
    below = curve.mean < reference.mean
    if not bool(below[-1]):
        return None
    above = (~below).nonzero()
    return 1 if len(above) == 0 else int(above[-1]) + 2


def write_csv(curves: list[Curve], path: Path) -> None:
    """One row for each step: ``actions, synthesizer, step, mean, median, windows``."""
    with replacing(path) as part, part.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["actions", "synthesizer", "step", "mean", "median", "windows"])
        for curve in curves:
            counts = curve.errors.isfinite().sum(0)
            for step, values in enumerate(zip(curve.mean, curve.median, counts, strict=True), start=1):
                mean, median, count = (value.item() for value in values)
                rows.writerow([curve.actions, curve.synthesizer, step, f"{mean:.6g}", f"{median:.6g}", count])


def write_summary(curves: list[Curve], path: Path) -> None:
    """One row for each curve, for :func:`~dydiff.analysis.error_table.error_table`: ``actions, synthesizer, mean,
    median, last_step, seconds``; mean and median over windows, then averaged over steps."""
    with replacing(path) as part, part.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["actions", "synthesizer", "mean", "median", "last_step", "seconds"])
        for curve in curves:
            figures = (curve.mean.nanmean(), curve.median.nanmean(), curve.mean[-1], curve.seconds)
            rows.writerow([curve.actions, curve.synthesizer, *(f"{float(figure):.6g}" for figure in figures)])


def plot(curves: list[Curve], path: Path, title: str) -> None:
    """Mean (solid) and median (dashed) error over the horizon, a panel for each kind of actions."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(curve.actions for curve in curves))
    names = list(dict.fromkeys(curve.synthesizer for curve in curves))
    figure = Figure(figsize=(5.5 * len(kinds), 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True):
        for curve in (curve for curve in curves if curve.actions == kind):
            steps, colour = range(1, len(curve.mean) + 1), f"C{names.index(curve.synthesizer)}"
            axes.plot(steps, curve.mean, color=colour, label=curve.synthesizer)
            axes.plot(steps, curve.median, color=colour, linestyle="--", linewidth=1)
        axes.set(yscale="log", xlabel="step", title=_TITLES[kind])
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("squared error of standardised states\nmean (solid), median (dashed)")
    figure.suptitle(title)
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")


def horizon_error(
    source: EpisodeSource,
    synthesizers: dict[str, Synthesizer],
    agent: Agent | None = None,
    checkpoint: str | None = None,
    num_windows: int = 1000,
    holdout_fraction: float = 0.1,
    seed: int = 0,
    out: str = "runs/horizon_error",
) -> None:
    """Measure model error over the horizon against the real environment, as the paper's Fig. 3.

    Writes ``<out>/<dataset>.csv``, ``<out>/<dataset>_summary.csv`` and ``<out>/<dataset>.png``, and prints where curves
    cross the first synthesizer's.

    Args:
        source: The dataset; its held-out episodes give the start states and the recorded actions.
        synthesizers: What to compare, by name; all of the same ``rollout_length``.
        agent: An agent whose policy is measured besides the recorded actions.
        checkpoint: Its checkpoint.
        num_windows: Windows, spread over the held-out episodes.
        holdout_fraction: The parts' own, so that the windows are held out for them.
        seed: Seed of windows and rollouts.
        out: Folder of the results.

    Raises:
        UserError: An agent without a checkpoint, or no episode that is long enough.
    """
    if agent is not None:
        load_agent(agent, checkpoint, source.task)
    episodes = source.load()
    held_out = episodes.select(episodes.split(holdout_fraction)[1])
    for synthesizer in synthesizers.values():
        synthesizer.attach(source)
    with torch.no_grad():
        curves = measure(synthesizers, source.task, held_out, agent and agent.policy(sample=False), num_windows, seed)
    folder = Path(out)
    write_csv(curves, folder / f"{source.name}.csv")
    write_summary(curves, folder / f"{source.name}_summary.csv")
    plot(curves, folder / f"{source.name}.png", source.name)
    for curve in curves:
        reference = next(first for first in curves if first.actions == curve.actions)
        print(
            f"{curve.actions:9} {curve.synthesizer:16} mean {curve.errors.nanmean():.4f} median "
            f"{curve.errors.nanmedian():.4f} last step {curve.mean[-1]:.4f}{_crossed(curve, reference)}"
        )
    print(f"Written to {folder / source.name}.csv and .png")


def _crossed(curve: Curve, reference: Curve) -> str:
    if curve is reference:
        return ""
    step = crossing(curve, reference)
    where = "never" if step is None else f"from step {step} on"
    return f", {where} below {reference.synthesizer}"
