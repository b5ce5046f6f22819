"""What a report says of one agent: tables, intervals and plots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from dydiff.report import plots
from dydiff.report.runs import Run
from dydiff.report.scores import FEWEST_SEEDS, Grouped, aggregate, paper_scores, repeated, spread
from dydiff.utils.output import latex_table, markdown_table, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What the published numbers come from, by agent: runs with DyDiff and without are of different lengths.
_AUTHORS_UPDATES = {
    "td3bc": "the agent alone makes 500,000 updates, with DyDiff 1,000,000",
    "diffql": "the agent alone makes 1,000,000 updates, with DyDiff 500,000",
    "cql": "the agent makes 1,000,000 updates, without and with DyDiff",
}
_Q_VALUES = "Mean Q value of the last minibatches, synthetic ones included; far above the others, it feeds on errors"
_LAST = "Score of the last evaluation, mean ± standard deviation over seeds (their number)"


@dataclass
class Page:
    """The report of one agent.

    Attributes:
        agent: Class name.
        runs: Its finished runs.
        grouped: The same, by label and dataset.
        num_last: Evaluations whose mean is the score at the end.
        reps: Bootstrap samples.
    """

    agent: str
    runs: Sequence[Run]
    grouped: Grouped
    num_last: int
    reps: int

    @property
    def datasets(self) -> list[str]:
        return sorted({run.dataset for run in self.runs})

    @property
    def at_end(self) -> str:
        """What the score at the end is."""
        return "last scores" if self.num_last == 1 else f"means of the last {self.num_last} scores"

    def lines(self, folder: Path, formats: Sequence[str]) -> list[str]:
        """The Markdown; the plots that it shows are written into a folder."""
        name, datasets, grouped = self.agent.lower(), self.datasets, self.grouped

        def picture(figure: "Figure", kind: str, text: str) -> list[str]:
            for suffix in formats:
                save_figure(figure, folder / f"{name}_{kind}.{suffix}")
            return [f"![{text}]({name}_{kind}.{formats[0]})\n"]

        lines = [f"## {self.agent}\n"]
        lines += picture(
            plots.learning_curves(grouped, datasets, self.agent), "curves", f"Learning curves of {self.agent}"
        )
        lines += ["Lines are means over seeds, bands one standard deviation.\n"]
        lines += [f"{_LAST}:\n", *self._table(lambda run: run.last), *self._paper()]
        if self.num_last > 1:
            lines += [f"Mean score of the last {self.num_last} evaluations:\n", *self._table(lambda run: run.end)]
        lines += ["Best score of all evaluations, picked in hindsight, hence optimistic:\n"]
        lines += self._table(lambda run: run.best)
        lines += self._intervals()
        complete = repeated(grouped, datasets)
        if len(complete) > 1:
            title = f"{self.agent}: {', '.join(datasets)}"
            profiles = plots.performance_profiles(complete, datasets, title)
            lines += picture(profiles, "profiles", f"Performance profiles of {self.agent}")
            lines += ["Bands are 95% stratified bootstrap intervals.\n"]
        for dataset in datasets:
            ablations = plots.ablations(
                [run for run in self.runs if run.dataset == dataset], f"{self.agent}, {dataset}"
            )
            if ablations is not None:
                lines += picture(ablations, f"{dataset}_ablation", f"Ablation on {dataset}")
        if all(run.log.q_mean is not None for run in self.runs):
            lines += [f"{_Q_VALUES}:\n"]
            lines += self._table(lambda run: run.log.q_mean or 0.0)
        if all(run.log.minutes is not None for run in self.runs):
            lines += ["Minutes of a run, from the first record to the last, without breaks:\n"]
            lines += self._table(lambda run: run.log.minutes or 0.0)
        return lines

    def latex(self) -> list[str]:
        """The tables of scores for LaTeX."""
        tables = [(_LAST, lambda run: run.last)]
        if self.num_last > 1:
            title = _LAST.replace("Score of the last evaluation", f"Mean score of the last {self.num_last} evaluations")
            tables.append((title, lambda run: run.end))
        return [line for title, score in tables for line in latex_table(*self._rows(score), f"{self.agent}. {title}.")]

    def _table(self, number: Callable[[Run], float]) -> list[str]:
        return [*markdown_table(*self._rows(number)), ""]

    def _rows(self, number: Callable[[Run], float]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """A number of every label on every dataset, with the mean of several datasets."""
        rows, datasets = [], self.datasets
        for dataset in datasets:
            cells = (runs.get(dataset) for runs in self.grouped.values())
            rows.append([dataset, *(spread([number(run) for run in cell]) if cell else "" for cell in cells)])
        if len(datasets) > 1:
            means = [
                f"{fmean(fmean(number(run) for run in runs[dataset]) for dataset in datasets):.1f}"
                if set(datasets) <= set(runs)
                else ""
                for runs in self.grouped.values()
            ]
            rows.append(["mean of datasets", *means])
        return _longer_side_down(["dataset", *self.grouped], rows)

    def _paper(self) -> list[str]:
        """The paper's scores of the same datasets and methods; nothing where it has none."""
        known, agent = paper_scores(), self.agent.lower()
        methods = [label for label in self.grouped if any((each, agent, label) in known for each in self.datasets)]
        if not methods:
            return []
        rows = []
        for dataset in self.datasets:
            cells = [known.get((dataset, agent, method)) for method in methods]
            rows.append([dataset, *("" if cell is None else f"{cell[0]:g} ± {cell[1]:g}" for cell in cells)])
        updates = _AUTHORS_UPDATES.get(agent)
        note = f"In the authors' specifications {updates}; which" if updates else "Which"
        note += " evaluation is reported (last, best or a mean) is not published.\n"
        return ["The paper's:\n", *markdown_table(*_longer_side_down(["dataset", *methods], rows)), "", note]

    def _intervals(self) -> list[str]:
        """Aggregate scores on each dataset and over all, of the methods with enough seeds."""
        lines, datasets, few = [], self.datasets, set()
        for together in [[dataset] for dataset in datasets] + [datasets] * (len(datasets) > 1):
            enough = repeated(self.grouped, together)
            if len(enough) > 1:  # one has nothing to be compared with
                lines += self._aggregates(enough, together)
            few |= {label for label, runs in self.grouped.items() if set(together) <= set(runs)} - set(enough)
        if few:
            names = [label for label in self.grouped if label in few]
            lines += [f"No interval where there are fewer than {FEWEST_SEEDS} seeds: {'; '.join(names)}.\n"]
        return lines

    def _aggregates(self, grouped: Grouped, datasets: Sequence[str]) -> list[str]:
        found = aggregate(grouped, datasets, self.reps)
        names = list(dict.fromkeys(name for each in found.values() for name in each))
        rows = []
        for label, each in found.items():
            cells = ("{:.3f} [{:.3f}, {:.3f}]".format(*each[name]) if name in each else "" for name in names)
            rows.append([label, *cells])
        title = f"Over {', '.join(datasets)}: {self.at_end} / 100, with 95% stratified bootstrap intervals:"
        return [f"{title}\n", *markdown_table(["method", *names], rows), ""]


def _longer_side_down(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """A table of datasets down and methods across, as in the paper; the other way round where methods are more."""
    if len(header) - 1 > len(rows):
        header, *rows = zip(["method", *header[1:]], *rows, strict=True)
    return header, rows
