"""``resume=DIR`` alone: the configuration that the run in that folder was started with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from srtrain.config.groups import Groups
from srtrain.config.location import conf_dir
from srtrain.config.yamlfile import first_comment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from srtrain.config.words import Words

# What folders of earlier versions lack, at the value that is how they trained.
ADDED: dict[str, object] = {
    "discriminator": {},
    "discriminator_optimizer": {},
    "objective": {},
    "loss.head": None,
    "loss.schedule": {},
    "model.target": None,
    "model.augment": {},
    "checkpoint.keep_best": 1,
    "checkpoint.floor": {},
    "checkpoint.on_save_error": "error",
}


def saved_run(words: Words) -> tuple[DictConfig, dict[str, str]] | None:
    """(config, choices) of ``DIR/config.yaml``, or None unless ``resume=DIR`` stands alone.

    Alone: no group is chosen beside it; keys may still be set. The choices are read from the
    file's first line, which ``choices_line`` wrote.
    """
    folders = [o.value() for o in words.values if o.key_or_group == "resume" and not o.is_delete()]
    if words.groups or not folders or not isinstance(folders[-1], str):
        return None
    file = Path(folders[-1]) / "config.yaml"
    if not file.is_file():
        return None
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    for key, before in ADDED.items():
        group, _, name = key.rpartition(".")
        if name not in (OmegaConf.select(config, group) if group else config):
            OmegaConf.update(config, key, before)
    OmegaConf.set_struct(config, True)
    pairs = (word.partition("=") for word in first_comment(file).split() if "=" in word)
    unknown = dict.fromkeys(Groups.of(conf_dir(), ()).names(), "as saved")
    return config, unknown | {group: option for group, _, option in pairs}


def choices_line(choices: Mapping[str, str]) -> str:
    """The first line of a run's ``config.yaml``: which options its values came from."""
    words = (f"{group}={option}" for group, option in sorted(choices.items()))
    return f"# srtrain {' '.join(words)}\n"
