"""The one exception that is shown to people as a single line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can fix: the command line prints its message without a traceback.

    The message says what is wrong, where, and what to do about it.
    """


def at_least(lowest: int, **settings: float | None) -> None:
    """Check settings, given by their names; ``None`` stands for one that is not set.

    Raises:
        UserError: One is lower.
    """
    for name, value in settings.items():
        if value is not None and value < lowest:
            raise UserError(f"{name} must {f'be at least {lowest}' if lowest else 'not be negative'}, not {value}.")


def above_zero(**settings: float | None) -> None:
    """Check settings, given by their names; ``None`` stands for one that is not set.

    Raises:
        UserError: One is zero or negative.
    """
    for name, value in settings.items():
        if value is not None and value <= 0:
            raise UserError(f"{name} must be above 0, not {value}.")


def below_one(**settings: float) -> None:
    """Check settings, given by their names.

    Raises:
        UserError: One is not in [0, 1).
    """
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise UserError(f"{name} must lie in [0, 1), not {value}.")


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """``" Did you mean a, b?"`` with the known words nearest to ``word``, or all when none is near and they are few."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=count, cutoff=0.5)
    if near:
        return f" Did you mean {', '.join(near)}?"
    return f" Known: {', '.join(sorted(known))}." if 0 < len(known) <= 20 else ""
