"""``python -m asynctune``."""

import sys

from asynctune.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
