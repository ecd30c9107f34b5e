"""Where the configuration lies; known without importing Hydra."""

from __future__ import annotations

from pathlib import Path

from srtrain.errors import ConfigError


def conf_dir() -> Path:
    """The absolute folder of ``train.yaml``: in the package (wheel), else in the checkout.

    Raises: ConfigError if neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(
        "the configuration folder is missing",
        where=f"{package / 'conf'} and {package.parent / 'conf'}",
        fix="reinstall srtrain",
    )
