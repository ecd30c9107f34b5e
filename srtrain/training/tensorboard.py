"""TensorBoard event files in the run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtrain.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch.loggers import TensorBoardLogger


def tensorboard_logger(*, run_dir: Path) -> TensorBoardLogger:
    """Writes ``run_dir/tensorboard``.

    Raises: ConfigError when the package is not installed.
    """
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(save_dir=str(run_dir), name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "TensorBoard is not installed",
            where="logger=tensorboard",
            fix="pip install tensorboard",
        ) from error
