"""The horizon errors of several seeds of models, in one table."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median, stdev

from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing
from dydiff.utils.output import markdown_table

_SUFFIX = "_summary.csv"
Figures = dict[str, dict[str, float]]
"""Figures by the folder of their seed."""
Summary = dict[tuple[str, str, str], Figures]
"""By dataset, actions and synthesizer: the metrics of each seed."""


def error_table(folder: str, reference: str, out: str) -> None:
    """Tabulate what ``horizon_error`` wrote for several seeds of models, against one of its synthesizers.

    Writes a Markdown table for each dataset and kind of actions: mean and median error over windows, averaged over
    steps, each as mean ± standard deviation over seeds; the mean error divided by the reference's of the same seed; and
    the time divided by the reference's, the median of the seeds, as a busy machine's seconds are.

    Args:
        folder: Folder with a folder for each seed, each the ``out`` of a run of ``horizon_error``.
        reference: Name of the synthesizer to divide by.
        out: Markdown file to write.

    Raises:
        UserError: Nothing to tabulate, or no such reference.
    """
    summary = read_summaries(Path(folder))
    lines = []
    for dataset, actions in dict.fromkeys(key[:2] for key in summary):
        methods = {key[2]: metrics for key, metrics in summary.items() if key[:2] == (dataset, actions)}
        if reference not in methods:
            raise UserError(f"There is no '{reference}' among the synthesizers of {dataset}: {', '.join(methods)}.")
        lines += [f"### {dataset}, {actions}\n", *_rows(methods, reference), ""]
    with replacing(Path(out)) as part:
        part.write_text("\n".join(lines))
    print(f"Written to {out}")


def read_summaries(folder: Path) -> Summary:
    """All summaries in the folders of ``folder``, in the order of their names.

    Raises:
        UserError: There is none.
    """
    summary: Summary = defaultdict(dict)
    for path in sorted(folder.glob(f"*/*{_SUFFIX}")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = path.name.removesuffix(_SUFFIX), row.pop("actions"), row.pop("synthesizer")
                summary[key][path.parent.name] = {name: float(value) for name, value in row.items()}
    if not summary:
        raise UserError(f"{folder} has no folder with a {_SUFFIX[1:]} of `analyze horizon_error --out {folder}/NAME`.")
    return summary


def _rows(methods: dict[str, Figures], reference: str) -> list[str]:
    """A row for each method; ratios are those of the seeds that the reference has, too."""
    against = methods[reference]
    header = ["made by", "seeds", "mean", "median", "last step", f"mean, to {reference}", f"time, to {reference}"]
    rows = []
    for name, metrics in methods.items():
        spread = [_spread([each[key] for each in metrics.values()]) for key in ("mean", "median", "last_step")]
        ratio, seconds = (
            [mine[key] / against[seed][key] for seed, mine in metrics.items() if seed in against]
            for key in ("mean", "seconds")
        )
        compared = [_spread(ratio), f"{median(seconds):.2f}"] if ratio else ["", ""]
        rows.append([name, str(len(metrics)), *spread, *compared])
    return markdown_table(header, rows)


def _spread(values: list[float]) -> str:
    """Mean ± sample standard deviation, where there is more than one value."""
    deviation = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{fmean(values):.3g}{deviation}"
