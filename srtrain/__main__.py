"""``python -m srtrain``."""

import sys

from srtrain.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
