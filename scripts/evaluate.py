"""``python scripts/evaluate.py MODEL… --scale N --data DIR -o OUT`` = ``srtrain evaluate …``."""

import sys

from srtrain.cli.main import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
