"""Scores by dataset and method, and their aggregates over datasets (rliable)."""

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from dydiff.report.runs import BASE, Run
from dydiff.utils.console import pip_install
from dydiff.utils.errors import UserError

Grouped = dict[str, dict[str, list[Run]]]
"""By label and dataset: the runs over seeds."""


def by_label(runs: Sequence[Run]) -> Grouped:
    """Runs of one agent, by label and dataset, the base agent first."""
    grouped: Grouped = defaultdict(lambda: defaultdict(list))
    for run in sorted(runs, key=_order):
        grouped[run.label][run.dataset].append(run)
    return grouped


def _order(run: Run) -> tuple[Any, ...]:
    unusual = [run.setting[key] for key in sorted(run.unusual)]
    numbers = [float(value) if isinstance(value, (int, float)) else 0.0 for value in unusual]
    return run.method != BASE, run.method, sorted(run.unusual), numbers, run.dataset, run.seed


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, and of how many values."""
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{deviation} ({len(values)})"


def paper_scores() -> dict[tuple[str, str, str], tuple[float, float]]:
    """Mean and standard deviation of the paper's Tables 1, 3 and 4, by dataset, agent in lower case, and method.

    The paper has Maze2d's scores as fractions; here they are percentages, as all others.
    """
    with Path(__file__).with_name("paper_results.csv").open(newline="") as file:
        scores = {}
        for row in csv.DictReader(file):
            unit = 100 if row["dataset"].startswith("maze2d") else 1
            mean_and_deviation = unit * float(row["score_mean"]), unit * float(row["score_std"])
            scores[row["dataset"], row["agent"], row["method"]] = mean_and_deviation
        return scores


def matrix(runs: dict[str, list[Run]], datasets: Sequence[str]) -> np.ndarray:
    """Scores at the end as fractions, ``[seeds, datasets]``; of more seeds than every dataset has, the first."""
    count = min(len(runs[dataset]) for dataset in datasets)
    return np.array([[runs[dataset][row].end / 100 for dataset in datasets] for row in range(count)])


FEWEST_SEEDS = 5
"""Below this number of seeds a bootstrap interval says less than the single scores."""


def repeated(grouped: Grouped, datasets: Sequence[str]) -> Grouped:
    """The labels that have at least :data:`FEWEST_SEEDS` seeds on each of the datasets."""
    return {
        label: {dataset: runs[dataset] for dataset in datasets}
        for label, runs in grouped.items()
        if all(len(runs.get(dataset, ())) >= FEWEST_SEEDS for dataset in datasets)
    }


def aggregate(grouped: Grouped, datasets: Sequence[str], reps: int) -> dict[str, dict[str, tuple[float, ...]]]:
    """For each label: interquartile mean, mean, optimality gap and probability of improvement over the base agent.

    Each as the value with the ends of its 95% stratified bootstrap interval.

    Args:
        grouped: The runs; each label has some on each of the datasets.
        datasets: The datasets.
        reps: Bootstrap samples.

    Raises:
        UserError: rliable is not installed.
    """
    rly, metrics = rliable()
    scores = {label: matrix(runs, datasets) for label, runs in grouped.items()}
    names = ("IQM", "mean", "optimality gap")
    functions = (metrics.aggregate_iqm, metrics.aggregate_mean, metrics.aggregate_optimality_gap)
    points, intervals = seeded(
        rly.get_interval_estimates, scores, lambda x: np.array([function(x) for function in functions]), reps=reps
    )
    estimates: dict[str, dict[str, tuple[float, ...]]] = {
        label: {
            name: (float(points[label][i]), *map(float, intervals[label][:, i])) for i, name in enumerate(names)
        }
        for label in scores
    }  # fmt: skip
    base = next((label for label, runs in grouped.items() if _is_base(runs)), None)
    for label in scores:
        if base is None or label == base:
            continue
        pair = {label: (scores[label], scores[base])}
        point, interval = seeded(rly.get_interval_estimates, pair, metrics.probability_of_improvement, reps=reps)
        estimates[label][f"P(> {base})"] = (float(point[label]), *map(float, interval[label][:, 0]))
    return estimates


def _is_base(runs: dict[str, list[Run]]) -> bool:
    """Whether these are runs of the agent alone, with its usual settings."""
    return all(run.method == BASE and not run.unusual for each in runs.values() for run in each)


def seeded(estimate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """An estimate that is the same whenever it is made: rliable draws its samples by NumPy's global random state."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        return estimate(*args, **kwargs)
    finally:
        np.random.set_state(before)


def rliable() -> tuple[Any, Any]:
    """The library of rliable and its metrics.

    Raises:
        UserError: It is not installed.
    """
    try:
        from rliable import library, metrics
    except ModuleNotFoundError:
        raise UserError(f"Reports need rliable: {pip_install('report')}.") from None
    return library, metrics
