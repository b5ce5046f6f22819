"""``python -m dydiff``."""

import sys

from dydiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
