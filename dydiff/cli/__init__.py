"""What a person types: ``fit``, ``validate``, ``test``, ``sweep``, ``report``, ``analyze``, ``collect``."""

from dydiff.cli.entry import main

__all__ = ["main"]
