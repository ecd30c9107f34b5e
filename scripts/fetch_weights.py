"""``python scripts/fetch_weights.py NAME…`` = ``srtrain fetch-weights NAME…``."""

import sys

from srtrain.cli.main import main

sys.exit(main(["fetch-weights", *sys.argv[1:]]))
