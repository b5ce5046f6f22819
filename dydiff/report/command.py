"""The command ``report``: tables in Markdown and LaTeX, scores in CSV, plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dydiff.report.logs import SUFFIX, write_logs
from dydiff.report.page import Page
from dydiff.report.runs import Run, longest, read_runs
from dydiff.report.scores import by_label
from dydiff.utils.errors import UserError, did_you_mean
from dydiff.utils.files import replacing
from dydiff.utils.output import markdown_table, write_csv


def report(
    runs: list[str],
    out: str = "report",
    num_last: int = 1,
    reps: int = 2000,
    labels: dict[str, str] | None = None,
    formats: list[Literal["png", "pdf", "svg"]] = ["png"],  # noqa: B006
) -> None:
    """Tabulate and draw the scores of runs, from their TensorBoard or CSV logs.

    Writes `report.md` (the paper's tables with its numbers next to them, aggregate scores with stratified bootstrap
    intervals, cost, and what the runs were computed with), `tables.tex` (its tables of scores for LaTeX), `scores.csv`
    (a line for each run), plots (learning curves, performance profiles, ablations) and `runs.jsonl`, which has all
    that was read of the logs: enough to make the report again when they are gone.
    Runs that have not reached their end are left out, by name; so are, of several with the same settings and seed, all
    but the longest.

    Args:
        runs: Folders of runs, of which all runs below them count, and `runs.jsonl` files of earlier reports.
        out: Folder to write.
        num_last: Evaluations at the end of a run whose mean is its score in aggregates and ablations.
        reps: Bootstrap samples.
        labels: Names for methods in place of those of the report: `{"DyDiff, alpha=10": "ours"}`.
        formats: File formats of the plots.

    Raises:
        UserError: No finished run, a label that no method has, fewer evaluations than ``num_last``, or rliable is not
            installed.
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
    pages = []
    for agent in sorted({run.agent for run in finished}):
        members = [run for run in finished if run.agent == agent]
        pages.append(Page(agent, members, by_label(members), num_last, reps))
    _rename(pages, labels or {})
    folder = Path(out)
    lines = [line for page in pages for line in page.lines(folder, formats)]
    with replacing(folder / "report.md") as part:
        part.write_text("\n".join([*lines, *_computed_with(finished)]))
    with replacing(folder / "tables.tex") as part:
        part.write_text("\n".join(line for page in pages for line in page.latex()))
    _write_scores(finished, folder / "scores.csv")
    write_logs([run.log for run in finished], folder / f"runs{SUFFIX}")
    print(f"{len(finished)} runs, written to {folder}/report.md, tables.tex, scores.csv, plots and runs{SUFFIX}")


def _rename(pages: Sequence[Page], labels: dict[str, str]) -> None:
    known = {label for page in pages for label in page.grouped}
    for label in labels:
        if label not in known:
            raise UserError(f"No method is labelled '{label}'.{did_you_mean(label, known, len(known))}")
    if len(set(labels.values())) < len(labels):
        raise UserError("Two labels have the same name: give each its own.")
    for page in pages:
        page.grouped = {labels.get(label, label): runs for label, runs in page.grouped.items()}


def _computed_with(runs: Sequence[Run]) -> list[str]:
    """What the runs were computed with; of what differs among them, all."""
    known = [run.log.computed_with for run in runs if run.log.computed_with]
    if not known:
        return []
    names = dict.fromkeys(name for each in known for name in each)
    values = {name: sorted({each[name] for each in known if name in each}) for name in names}
    counted = "" if len(known) == len(runs) else f"Recorded by {len(known)} of {len(runs)} runs. "
    lines = [f"## Computed with\n\n{counted}All settings of the runs are in `runs{SUFFIX}`.\n"]
    return [*lines, *markdown_table(["", ""], [[name, ", ".join(found)] for name, found in values.items()]), ""]


def _write_scores(runs: Sequence[Run], path: Path) -> None:
    header = ["dataset", "agent", "method", "setting", "seed", "updates", "last", "end", "best", "minutes"]
    rows = []
    for run in runs:
        setting = " ".join(f"{key}={value}" for key, value in run.setting.items())
        numbers = run.last, run.end, run.best, run.log.minutes
        rows.append([run.dataset, run.agent, run.method, setting, run.seed, run.steps[-1], *numbers])
    write_csv(path, header, rows)
