"""``python scripts/sweep_tradeoff.py`` = ``srtrain tradeoff``: the plane from one command."""

import sys

from srtrain.cli.main import main

sys.exit(main(["tradeoff", *sys.argv[1:]]))
