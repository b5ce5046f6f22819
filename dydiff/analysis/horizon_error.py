"""Model error over the horizon, against the real environment (the paper's Fig. 3)."""

import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dydiff.agents.base import Agent, load_agent
from dydiff.data.episodes import Episodes
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.envs.real_rollout import RecordedActions, real_rollout, restorable
from dydiff.rollout.base import LearningPolicy, PlainPolicy, Synthesizer
from dydiff.utils.errors import UserError
from dydiff.utils.output import new_figure, save_figure, write_csv

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
    policy: LearningPolicy | None = None,
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

    def compare(
        actions: str, truth: tuple[Tensor, Tensor, Tensor], policy: LearningPolicy | None = None
    ) -> list[Curve]:
        obs, act, valid = truth
        curves = []
        for name, synthesizer in synthesizers.items():
            shown = policy or PlainPolicy(RecordedActions(act))
            begin = time.perf_counter()
            made = synthesizer.synthesize(shown, start, torch.Generator().manual_seed(seed))[0]
            seconds = time.perf_counter() - begin
            errors = ((made.obs[:, 1:horizon] - obs[:, 1:horizon]) / scale).square().mean(-1)
            curves.append(Curve(actions, name, errors.masked_fill(~valid[:, : horizon - 1], torch.nan), seconds))
        return curves

    recorded = RecordedActions(windows.act)
    curves = compare("recorded", real_rollout(task, start, recorded, horizon))
    if policy is not None:
        truth = real_rollout(task, start, policy, horizon)
        curves += compare("policy", truth) + compare("on-policy", truth, policy)
    return curves


def crossing(curve: Curve, reference: Curve) -> int | None:
    """First step from which the curve's mean error stays below the reference's, or ``None``."""
    below = curve.mean < reference.mean
    if not bool(below[-1]):
        return None
    above = (~below).nonzero()
    return 1 if len(above) == 0 else int(above[-1]) + 2


def write_curves(curves: list[Curve], path: Path) -> None:
    """One row for each step: ``actions, synthesizer, step, mean, median, windows``."""
    rows = []
    for curve in curves:
        metrics = zip(curve.mean.tolist(), curve.median.tolist(), curve.errors.isfinite().sum(0).tolist(), strict=True)
        rows += [(curve.actions, curve.synthesizer, step, *each) for step, each in enumerate(metrics, start=1)]
    write_csv(path, ["actions", "synthesizer", "step", "mean", "median", "windows"], rows)


def write_summary(curves: list[Curve], path: Path) -> None:
    """Write one row for each curve, for :func:`~dydiff.analysis.error_table.error_table`.

    The columns are ``actions, synthesizer, mean, median, last_step, seconds``; mean and median are over windows, then
    averaged over steps.
    """
    rows = []
    for curve in curves:
        metrics = (float(each) for each in (curve.mean.nanmean(), curve.median.nanmean(), curve.mean[-1]))
        rows.append([curve.actions, curve.synthesizer, *metrics, curve.seconds])
    write_csv(path, ["actions", "synthesizer", "mean", "median", "last_step", "seconds"], rows)


def plot(curves: list[Curve], path: Path, title: str) -> None:
    """Mean (solid) and median (dashed) error over the horizon, a panel for each kind of actions."""
    kinds = list(dict.fromkeys(curve.actions for curve in curves))
    names = list(dict.fromkeys(curve.synthesizer for curve in curves))
    figure = new_figure(5.5 * len(kinds), 4)
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
    save_figure(figure, path)


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
        holdout_fraction: That of the pretrained models, so that the windows are held out for them.
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
        agent_policy = None if agent is None else agent.policy(sample=False)
        curves = measure(synthesizers, source.task, held_out, agent_policy, num_windows, seed)
    folder = Path(out)
    write_curves(curves, folder / f"{source.name}.csv")
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
