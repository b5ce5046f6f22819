"""The one exception that is shown to people as a single line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: the command line prints its message without a traceback.

    The message says what is wrong, where, and what to do about it.
    """


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """``" Did you mean a, b?"`` with the known words nearest to ``word``, or all of them when none is near."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=count, cutoff=0.5)
    if near:
        return f" Did you mean {', '.join(near)}?"
    return f" Known: {', '.join(sorted(known))}."
