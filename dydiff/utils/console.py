"""What commands print."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

_console = Console(highlight=False, soft_wrap=True)


def show_line(text: str) -> None:
    """Print one line, however narrow the terminal."""
    _console.print(text, markup=False)


def show_table(table: Table) -> None:
    """Print a table."""
    _console.print(table)


def pip_install(extra: str) -> str:
    """The command that installs an optional dependency, as the package itself was installed."""
    is_checkout = (Path(__file__).parents[2] / "pyproject.toml").is_file()
    return f"pip install {'-e ' if is_checkout else ''}'{'.' if is_checkout else 'dydiff'}[{extra}]'"
