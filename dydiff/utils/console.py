"""What commands print."""

from rich.console import Console
from rich.table import Table

_console = Console(highlight=False, soft_wrap=True)


def show_line(text: str) -> None:
    """Print one line, however narrow the terminal."""
    _console.print(text, markup=False)


def show_table(table: Table) -> None:
    """Print a table."""
    _console.print(table)
