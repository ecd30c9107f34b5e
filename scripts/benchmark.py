"""``python scripts/benchmark.py`` = ``srtrain benchmark``."""

import sys

from srtrain.cli.main import main

sys.exit(main(["benchmark", *sys.argv[1:]]))
