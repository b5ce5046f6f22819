"""Learning curves, performance profiles and ablations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dydiff.report.runs import BASE, Run
from dydiff.report.scores import Grouped, matrix, rliable, seeded
from dydiff.utils.output import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _colours(count: int) -> Sequence[str]:
    """As many colours as there are lines: matplotlib's ten, or from one end of a scale to the other."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [f"C{index}" if count <= 10 else to_hex(colormaps["turbo"](index / count)) for index in range(count)]


def learning_curves(grouped: Grouped, datasets: Sequence[str], title: str) -> "Figure":
    """Score over updates, a panel for each dataset: mean over seeds, and one standard deviation around it."""
    figure, colours = new_figure(5.2 * len(datasets), 4), _colours(len(grouped))
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        for index, (label, runs) in enumerate(grouped.items()):
            if dataset not in runs:
                continue
            steps = sorted(set.intersection(*(set(run.steps) for run in runs[dataset])))
            curves = np.array(
                [[dict(zip(run.steps, run.scores, strict=True))[s] for s in steps] for run in runs[dataset]]
            )
            mean, deviation = curves.mean(0), curves.std(0)
            axes.plot(steps, mean, color=colours[index], label=label)
            axes.fill_between(steps, mean - deviation, mean + deviation, color=colours[index], alpha=0.15, linewidth=0)
        axes.set(title=dataset, xlabel="updates", ylabel="score")
        axes.grid(alpha=0.3)
    _legend_below(figure)
    figure.suptitle(title)
    return figure


def performance_profiles(grouped: Grouped, datasets: Sequence[str], title: str) -> "Figure":
    """The share of runs above each score, over datasets that all labels have runs of, with 95% bootstrap bands."""
    library, _ = rliable()
    scores = {label: matrix(runs, datasets) for label, runs in grouped.items()}
    highest = max(1.0, *(float(values.max()) for values in scores.values()))
    levels = np.linspace(0, highest, 81)
    profiles, bands = seeded(library.create_performance_profile, scores, levels, reps=1000)
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for label, colour in zip(scores, _colours(len(scores)), strict=True):
        axes.plot(100 * levels, profiles[label], color=colour, label=label)
        axes.fill_between(100 * levels, *bands[label], color=colour, alpha=0.15, linewidth=0)
    axes.set(title=title, xlabel="score", ylabel="share of runs above it", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    _legend_below(figure)
    return figure


def _legend_below(figure: "Figure") -> None:
    """One legend for all panels below them: the figure grows by it, so that it is whole however many lines it has."""
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    longest = max(map(len, handles), default=0)
    columns = max(1, int(figure.get_figwidth() / (0.075 * longest + 0.6)))  # inches of a character, and of a line
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8)


def ablation_points(runs: Sequence[Run]) -> dict[tuple[str, str], dict[float, list[float]]]:
    """For each method, and each numeric setting of it that varies by itself: by its value, the scores at the end.

    Settings that always leave their usual values together (rollouts half as long, and twice as many) count as one, the
    last of them.
    """
    varied: dict[tuple[str, str], dict[float, list[float]]] = {}
    for method, together in sorted({(run.method, tuple(sorted(run.unusual))) for run in runs if run.unusual}):
        members = [run for run in runs if run.method == method and run.unusual in (frozenset(), frozenset(together))]
        key = [key for key in members[0].setting if key in together][-1]
        points: dict[float, list[float]] = {}
        for run in members:
            if isinstance(value := run.setting[key], (int, float)) and not isinstance(value, bool):
                points.setdefault(value, []).append(run.end)
        if 1 < len(points) == len({str([run.setting[each] for each in together]) for run in members}):
            varied[method, key] = points
    return varied


def ablations(runs: Sequence[Run], title: str) -> "Figure | None":
    """Score at the end over each setting that varies by itself: seeds as dots, mean ± deviation as a line, Base dashed.

    Returns:
        The plot; ``None`` where there is no such setting.
    """
    panels = ablation_points(runs)
    if not panels:
        return None
    base = [run.end for run in runs if run.method == BASE]
    figure = new_figure(5.2 * len(panels), 4)
    for axes, ((method, key), points) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True
    ):
        values = sorted(points)
        mean, deviation = ([function(points[value]) for value in values] for function in (np.mean, np.std))
        axes.errorbar(values, mean, deviation, marker="o", capsize=3)
        for value in values:
            axes.plot([value] * len(points[value]), points[value], ".", color="grey", alpha=0.6)
        if base:
            axes.axhline(float(np.mean(base)), color="grey", linestyle="--")
        axes.set(title=method, xlabel=key)
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="score at the end")
    figure.suptitle(title)
    return figure
