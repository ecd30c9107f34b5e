"""``srtrain fetch-weights``: the published weights that perceptual losses, LPIPS and DISTS want."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from srtrain.cli.arguments import Arguments
from srtrain.download import download

URL = "https://download.pytorch.org/models"


class Weights(NamedTuple):
    """A file of torchvision, whose name ends in the first digits of its SHA-256, and its use."""

    file: str
    megabytes: int
    use: str


WEIGHTS = {
    "vgg19": Weights("vgg19-dcbb9e9d.pth", 575, "loss.terms.perceptual.features=imagenet"),
    "lpips-squeeze": Weights("squeezenet1_1-b8a52dc0.pth", 5, "metrics.lpips.net=squeeze"),
    "lpips-alex": Weights("alexnet-owt-7be5be79.pth", 244, "metrics.lpips.net=alex"),
    "lpips-vgg": Weights("vgg16-397923af.pth", 553, "metrics.lpips.net=vgg, perceptual_lpips"),
    "dists": Weights("vgg16-397923af.pth", 553, "loss.terms.perceptual_dists"),
}


def main(argv: list[str]) -> int:
    """Download each named file into torch's cache, verified; prints where it lies."""
    arguments = _parser().parse_args(argv)
    folder = arguments.to or torch_cache()
    for name in arguments.names:
        weights = WEIGHTS[name]
        digits = Path(weights.file).stem.rpartition("-")[2]
        path = download(f"{arguments.url}/{weights.file}", folder / weights.file, sha256=digits)
        print(f"{path}  used by {weights.use}")
    return 0


def torch_cache() -> Path:
    """Where torch.hub keeps files, as ``torch.hub.get_dir`` says, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(os.path.expandvars(home)).expanduser() / "hub" / "checkpoints"


def _parser() -> argparse.ArgumentParser:
    table = "\n".join(
        f"  {name:<14} {weights.megabytes:>4} MB   for {weights.use}"
        for name, weights in WEIGHTS.items()
    )
    parser = Arguments(
        prog="srtrain fetch-weights",
        description="Download weights of torchvision into torch's cache, checksum verified.",
        epilog=f"names:\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", choices=WEIGHTS, metavar="NAME", help="see below")
    parser.add_argument("--to", type=Path, metavar="DIR", help="another folder than torch's cache")
    parser.add_argument("--url", default=URL, help="a mirror (default: %(default)s)")
    return parser
