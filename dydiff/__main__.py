"""``python -m dydiff``, and the command ``dydiff``."""

import os
import sys

# A thread that waits in a loop keeps a core from others (docs/performance.md). OpenMP reads this when torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from dydiff.cli import main


def run() -> int:
    """The command ``dydiff``: like ``python -m dydiff``, it finds modules in the working directory."""
    sys.path.insert(0, os.getcwd())
    return main()


if __name__ == "__main__":
    sys.exit(main())
