"""``python -m asynctune``."""

import sys

from asynctune.cli import main

if __name__ == "__main__":
    sys.exit(main())
