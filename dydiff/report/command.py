"""The command ``report``: tables in Markdown, scores in CSV, plots in PNG."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from dydiff.report import plots
from dydiff.report.logs import SUFFIX, write_logs
from dydiff.report.runs import Run, longest, read_runs
from dydiff.report.scores import Grouped, aggregate, by_label, paper_scores, repeated, spread
from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing
from dydiff.utils.output import markdown_table, write_csv

# What the published numbers come from, by agent: runs with DyDiff and without are of different lengths.
_AUTHORS_UPDATES = {
    "td3bc": "the agent alone makes 500,000 updates, with DyDiff 1,000,000",
    "diffql": "the agent alone makes 1,000,000 updates, with DyDiff 500,000",
    "cql": "the agent makes 1,000,000 updates, without and with DyDiff",
}


def report(runs: list[str], out: str = "report", num_last: int = 1, reps: int = 2000) -> None:
    """Tabulate and draw the scores of runs, from their TensorBoard or CSV logs.

    Writes `report.md` (the paper's tables with its numbers next to them, aggregate scores with stratified bootstrap
    intervals, cost), `scores.csv` (a line for each run), plots (learning curves, performance profiles, ablations)
    and `runs.jsonl`, which has all that was read of the logs: enough to make the report again when they are gone.
    Runs that have not reached their end are left out, by name; so are, of several with the same settings and seed, all
    but the longest.

    Args:
        runs: Folders of runs, of which all runs below them count, and `runs.jsonl` files of earlier reports.
        out: Folder to write.
        num_last: Evaluations at the end of a run whose mean is its score in aggregates and ablations.
        reps: Bootstrap samples.

    Raises:
        UserError: No finished run, fewer evaluations than ``num_last``, or rliable is not installed.
    """
    found = longest(read_runs(runs, num_last))
    finished = [run for run in found if run.finished]
    for run, others in found.items():
        for other in others:
            print(f"Left out, as {run.log.folder} has the same settings and seed: {other.log.folder}")
        if not run.finished:
            print(f"Left out, as it is at update {run.steps[-1]:,} of {run.planned:,}: {run.log.folder}")
    if not finished:
        raise UserError("None of the runs is finished.")
    fewest = min(finished, key=lambda run: len(run.scores))
    if not 1 <= num_last <= len(fewest.scores):
        raise UserError(
            f"num_last is {num_last}; give 1 to {len(fewest.scores)}, the evaluations of {fewest.log.folder}."
        )
    folder = Path(out)
    lines = []
    for agent in sorted({run.agent for run in finished}):
        lines += _agent_report([run for run in finished if run.agent == agent], agent, folder, num_last, reps)
    with replacing(folder / "report.md") as part:
        part.write_text("\n".join(lines))
    _write_scores(finished, folder / "scores.csv")
    write_logs([run.log for run in finished], folder / f"runs{SUFFIX}")
    print(f"{len(finished)} runs, written to {folder}/report.md, scores.csv, plots and runs{SUFFIX}")


def _agent_report(runs: list[Run], agent: str, folder: Path, num_last: int, reps: int) -> list[str]:
    end = "last scores" if num_last == 1 else f"means of the last {num_last} scores"
    grouped, datasets = by_label(runs), sorted({run.dataset for run in runs})
    name = agent.lower()
    plots.learning_curves(grouped, datasets, folder / f"{name}_curves.png", agent)
    lines = [f"## {agent}\n", f"![Learning curves of {agent}]({name}_curves.png)\n"]
    lines += ["Score of the last evaluation, mean ± standard deviation over seeds (their number):\n"]
    lines += _table(grouped, datasets, lambda run: run.last)
    lines += _paper(agent, grouped, datasets)
    if num_last > 1:
        lines += [f"Mean score of the last {num_last} evaluations:\n"]
        lines += _table(grouped, datasets, lambda run: run.end)
    lines += ["Best score of all evaluations, picked in hindsight, hence optimistic:\n"]
    lines += _table(grouped, datasets, lambda run: run.best)
    for together in [[dataset] for dataset in datasets] + [datasets] * (len(datasets) > 1):
        lines += _intervals(repeated(grouped, together), together, f"{end} / 100", reps)
    complete = repeated(grouped, datasets)
    if len(complete) > 1:
        plots.performance_profiles(
            complete, datasets, folder / f"{name}_profiles.png", f"{agent}: {', '.join(datasets)}"
        )
        lines += [f"![Performance profiles of {agent}]({name}_profiles.png)\n"]
    for dataset in datasets:
        picture = f"{name}_{dataset}_ablation.png"
        if plots.ablations([run for run in runs if run.dataset == dataset], folder / picture, f"{agent}, {dataset}"):
            lines += [f"![Ablation on {dataset}]({picture})\n"]
    if all(run.log.q_mean is not None for run in runs):
        lines += [
            "Mean Q value of the last minibatches, synthetic ones included; far above the others, it feeds on errors:\n"
        ]
        lines += _table(grouped, datasets, lambda run: run.log.q_mean or 0.0)
    if all(run.log.minutes is not None for run in runs):
        lines += ["Minutes of a run, from the first record to the last, without breaks:\n"]
        lines += _table(grouped, datasets, lambda run: run.log.minutes or 0.0)
    return lines


def _table(grouped: Grouped, datasets: Sequence[str], metric: Callable[[Run], float]) -> list[str]:
    """A metric of every label on every dataset, with the mean over datasets where there are several."""
    rows = []
    for dataset in datasets:
        cells = [spread([metric(run) for run in runs[dataset]]) if dataset in runs else "" for runs in grouped.values()]
        rows.append([dataset, *cells])
    if len(datasets) > 1:
        means = [
            f"{fmean(fmean(metric(run) for run in runs[dataset]) for dataset in datasets):.1f}"
            if set(datasets) <= set(runs)
            else ""
            for runs in grouped.values()
        ]
        rows.append(["mean of datasets", *means])
    return _longer_side_down(["dataset", *grouped], rows)


def _longer_side_down(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of datasets down and methods across, as in the paper; the other way round where methods are more."""
    if len(header) - 1 > len(rows):
        header, *rows = zip(["method", *header[1:]], *rows, strict=True)
    return [*markdown_table(header, rows), ""]


def _paper(agent: str, grouped: Grouped, datasets: Sequence[str]) -> list[str]:
    """The paper's scores of the same datasets and methods; nothing where it has none."""
    known = paper_scores()
    methods = [label for label in grouped if any((dataset, agent.lower(), label) in known for dataset in datasets)]
    if not methods:
        return []
    rows = []
    for dataset in datasets:
        cells = [known.get((dataset, agent.lower(), method)) for method in methods]
        rows.append([dataset, *("" if cell is None else f"{cell[0]:g} ± {cell[1]:g}" for cell in cells)])
    updates = _AUTHORS_UPDATES.get(agent.lower())
    note = f"In the authors' specifications {updates}; which" if updates else "Which"
    note += " evaluation is reported (last, best or a mean) is not published.\n"
    return ["The paper's:\n", *_longer_side_down(["dataset", *methods], rows), note]


def _intervals(grouped: Grouped, datasets: Sequence[str], scores: str, reps: int) -> list[str]:
    """The aggregate scores of labels that all have several seeds on the datasets; nothing for fewer than two."""
    if len(grouped) < 2:
        return []
    intervals = aggregate(grouped, datasets, reps)
    names = list(dict.fromkeys(name for each in intervals.values() for name in each))
    rows = []
    for label, each in intervals.items():
        cells = ("{:.3f} [{:.3f}, {:.3f}]".format(*each[name]) if name in each else "" for name in names)
        rows.append([label, *cells])
    title = (
        f"Over {', '.join(datasets)}: {scores}, with 95% stratified bootstrap intervals, of methods with several seeds:"
    )
    return [f"{title}\n", *markdown_table(["method", *names], rows), ""]


def _write_scores(runs: Sequence[Run], path: Path) -> None:
    header = ["dataset", "agent", "method", "setting", "seed", "updates", "last", "end", "best", "minutes"]
    rows = []
    for run in runs:
        setting = " ".join(f"{key}={value}" for key, value in run.setting.items())
        numbers = run.last, run.end, run.best, run.log.minutes
        rows.append([run.dataset, run.agent, run.method, setting, run.seed, run.steps[-1], *numbers])
    write_csv(path, header, rows)
