"""What the terminal shows: our own lines, without libraries' notices already answered."""

from __future__ import annotations

import logging
import warnings

from rich.console import Console

PIPED_WIDTH = 100  # columns where the output is no terminal

NOISE = (
    r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",
    r".*does not have many workers.*",
    r".*torch\.jit\.script.* is deprecated.*",
    r".*`srun` command is available on your system but is not used.*",
    r".*torch\.meshgrid: in an upcoming release.*",
    r".*Consider setting `persistent_workers=True`.*",
    r".*`training_step` returned `None`.*",
    r".*\.grad attribute of a Tensor that is not a leaf.*",  # torch.compile looks, nobody else
    r".*module\(s\) in eval mode at the start of training.*",  # a flow's mean, for good
    r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",
)


def quiet_libraries() -> None:
    """Lightning's hints about loaders, steps and tips; errors and warnings of substance stay."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # trainer.compile without a GPU: it looks for CUDA all the same, and tells.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    logging.basicConfig(format="srtrain: %(message)s", level=logging.WARNING)


def make_console(*, quiet: bool) -> Console:
    """Standard output; wide enough for the tables when piped into a file."""
    console = Console(quiet=quiet, highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console
