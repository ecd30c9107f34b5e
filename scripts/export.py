"""``python scripts/export.py CKPT --to safetensors | onnx`` = ``srtrain export …``."""

import sys

from srtrain.cli.main import main

sys.exit(main(["export", *sys.argv[1:]]))
