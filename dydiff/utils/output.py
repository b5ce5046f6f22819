"""What analyses and reports write: CSV files, Markdown tables and plots, each written atomically."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dydiff.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file; floats have six digits, and ``None`` is empty."""
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def new_figure(width: float, height: float) -> "Figure":
    """A plot of a size in inches, whose panels make room for their labels; it needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a plot in the format that the path's suffix names: PNG, PDF or SVG."""
    from matplotlib import rc_context

    # Two calls give the same bytes: no date, and no random names in SVG.
    dates: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with replacing(path) as part, rc_context({"svg.hashsalt": "dydiff", "pdf.fonttype": 42}):
        figure.savefig(part, dpi=110, format=path.suffix[1:], metadata=dates.get(path.suffix))


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> list[str]:
    """The lines of a LaTeX table for the package booktabs; cells are Markdown's."""
    lines = [f"{' & '.join(map(_latex, cells))} \\\\" for cells in (header, *rows)]
    columns = "l" + "r" * (len(header) - 1)
    begin = [r"\begin{table}", r"\centering", f"\\caption{{{_latex(caption)}}}", f"\\begin{{tabular}}{{{columns}}}"]
    return [
        *begin,
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]


def _latex(text: str) -> str:
    escaped = "".join(f"\\{each}" if each in "&%$#_{}" else each for each in text)
    return escaped.replace("±", r"$\pm$").replace(">", "$>$").replace("<", "$<$")
