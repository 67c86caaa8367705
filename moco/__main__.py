"""python -m moco."""

import sys

from moco.cli import main

if __name__ == "__main__":
    sys.exit(main())
