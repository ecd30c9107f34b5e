"""Libraries' notices that srtrain has answered already."""

from __future__ import annotations

import logging
import warnings

NOISE = (
    r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",
    r".*does not have many workers.*",
    r".*torch\.jit\.script.* is deprecated.*",
    r".*Consider setting `persistent_workers=True`.*",
    r".*`training_step` returned `None`.*",
    r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",
)


def quiet_libraries() -> None:
    """Lightning's hints about loaders, steps and tips; errors and warnings of substance stay."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.basicConfig(format="srtrain: %(message)s", level=logging.WARNING)
