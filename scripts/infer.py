"""``python scripts/infer.py CKPT INPUT… -o OUT`` = ``srtrain infer CKPT INPUT… -o OUT``."""

import sys

from srtrain.cli.main import main

sys.exit(main(["infer", *sys.argv[1:]]))
