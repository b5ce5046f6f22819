"""Learning curves, performance profiles and ablations, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dydiff.files import replacing
from dydiff.report.runs import Run
from dydiff.report.scores import Grouped, matrix, rliable, shared_datasets


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, dpi=110, format="png")


def learning_curves(grouped: Grouped, datasets: Sequence[str], path: Path, title: str) -> None:
    """Score over updates, a panel for each dataset: mean over seeds, and one standard deviation around it."""
    figure = _figure(5.2 * len(datasets), 4)
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        for index, (label, runs) in enumerate(grouped.items()):
            if dataset not in runs:
                continue
            steps = sorted(set.intersection(*(set(run.steps) for run in runs[dataset])))
            curves = np.array(
                [[dict(zip(run.steps, run.scores, strict=True))[s] for s in steps] for run in runs[dataset]]
            )
            mean, deviation = curves.mean(0), curves.std(0)
            axes.plot(steps, mean, color=f"C{index}", label=f"{label} ({len(curves)} seeds)")
            axes.fill_between(steps, mean - deviation, mean + deviation, color=f"C{index}", alpha=0.15, linewidth=0)
        axes.set(title=dataset, xlabel="updates", ylabel="normalised score")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title)
    _save(figure, path)


def performance_profiles(grouped: Grouped, path: Path, title: str) -> None:
    """The share of runs above each score, over the datasets that all labels share, with 95% bootstrap bands."""
    library, _ = rliable()
    datasets = shared_datasets(grouped)
    scores = {label: matrix(runs, datasets) for label, runs in grouped.items()}
    highest = max(1.0, *(float(values.max()) for values in scores.values()))
    levels = np.linspace(0, highest, 81)
    profiles, bands = library.create_performance_profile(scores, levels, reps=1000)
    figure = _figure(6, 4)
    axes = figure.subplots()
    for index, label in enumerate(scores):
        axes.plot(100 * levels, profiles[label], color=f"C{index}", label=label)
        axes.fill_between(100 * levels, *bands[label], color=f"C{index}", alpha=0.15, linewidth=0)
    axes.set(title=title, xlabel="normalised score", ylabel="share of runs above it", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, path)


def ablations(runs: Sequence[Run], path: Path, title: str) -> bool:
    """Last score over the one numeric setting that varies: seeds as dots, mean and standard deviation as a line.

    Returns:
        Whether there was such a setting, and so a picture.
    """
    keys = {tuple(run.setting) for run in runs if run.setting}
    if len(keys) != 1 or len(next(iter(keys))) != 1:
        return False
    key = next(iter(keys))[0]
    points: dict[Any, list[float]] = {}
    for run in runs:
        value = run.setting.get(key)
        if isinstance(value, (int, float)):
            points.setdefault(value, []).append(run.last)
    if len(points) < 2:
        return False
    values = sorted(points)
    figure = _figure(5.2, 4)
    axes = figure.subplots()
    mean, deviation = ([function(points[value]) for value in values] for function in (np.mean, np.std))
    axes.errorbar(values, mean, deviation, marker="o", capsize=3)
    for value in values:
        axes.plot([value] * len(points[value]), points[value], ".", color="grey", alpha=0.6)
    axes.set(title=title, xlabel=key, ylabel="normalised score at the end")
    axes.grid(alpha=0.3)
    _save(figure, path)
    return True
