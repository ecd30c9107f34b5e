"""``python scripts/check_data.py HR_DIR`` = ``srtrain check-data HR_DIR``."""

import sys

from srtrain.cli.main import main

sys.exit(main(["check-data", *sys.argv[1:]]))
