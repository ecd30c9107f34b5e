"""The network that a flow starts from, or is told of: from a finished run into the generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from srtrain.errors import ConfigError, StorageError
from srtrain.networks.flow import Flow
from srtrain.networks.image_only import image_only
from srtrain.networks.loading import Loaded, load
from srtrain.training.flow import flow_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from omegaconf import DictConfig

    from srtrain.networks.generator import Generator
    from srtrain.networks.spec import Spec


MSE = "torch.nn.MSELoss"


def load_mean(config: DictConfig) -> Generator:
    """The network of ``mse_checkpoint``, its averaged weights.

    Raises: StorageError as ``load_generator``; ConfigError if it is of another scale, or a flow.
    """
    found = image_only(_loaded(config).generator)
    if isinstance(found.net, Flow):
        raise ConfigError(
            f"{config.mse_checkpoint} is a flow: it makes samples, no mean",
            where="mse_checkpoint",
            fix="give the run of experiment=mse",
        )
    if found.scale != config.scale:
        raise ConfigError(
            f"{config.mse_checkpoint} is of scale {found.scale}, this run of scale {config.scale}",
            where="mse_checkpoint",
            fix=f"give one of scale {config.scale}, or scale={found.scale}",
        )
    return found


def origin(config: DictConfig) -> list[tuple[str, str]]:
    """Rows for a header: what trained the network of ``mse_checkpoint``; and a warning, not by MSE.

    Nothing where there is none, or it is gone: who resumes needs it no more.
    """
    if not config.mse_checkpoint:
        return []
    try:
        found = _loaded(config)
    except StorageError:
        return []
    about = found.about
    row = ("mean", f"experiment {about.get('experiment', 'unknown')}, {found.file}")
    loss = about.get("config", {}).get("loss", {})
    terms = {name for name, weight in loss.get("weights", {}).items() if weight}
    pixel = loss.get("terms", {}).get("pixel", {}).get("_target_")
    if terms == {"pixel"} and pixel == MSE:
        return [row]
    named = " + ".join(sorted(terms)) or "a loss that its file does not tell"
    named = f"{named} ({pixel.rpartition('.')[2]})" if pixel and pixel != MSE else named
    return [row, ("warning", f"it was trained by {named}, not by MSE alone: it may be no mean")]


def with_mean(
    spec: Spec, config: DictConfig, content: Mapping[str, Any] | None
) -> tuple[Spec, Generator | None]:
    """The flow's spec with that of its mean; and the mean, unless ``content`` brings it.

    ``content``: of the checkpoint that is continued, which holds the mean's weights too.

    Raises: ConfigError if ``mse_checkpoint`` is not what that run began with.
    """
    if not config.mse_checkpoint:
        return spec, None
    if content is None:
        mean = load_mean(config)
        node = {"_target_": mean.spec["_target_"], **mean.spec["kwargs"]}
        return _of(spec, node), mean
    _refuse_another(config, content)
    return _of(spec, content["generator"]["kwargs"].get("mean")), None


def _of(spec: Spec, mean: object) -> Spec:
    return {**spec, "kwargs": {**spec["kwargs"], "mean": mean}}


def _loaded(config: DictConfig) -> Loaded:
    return load(Path(config.mse_checkpoint), trust=config.trust)


def _refuse_another(config: DictConfig, content: Mapping[str, Any]) -> None:
    """The run goes on with the mean it began with; another would be passed over unsaid.

    One that is gone since is no other.
    """
    try:
        now = load_mean(config).net.state_dict()
    except StorageError:
        if content["config"].get("mse_checkpoint") == config.mse_checkpoint:
            return
        raise
    before = {
        name.removeprefix("mean.net."): value
        for name, value in content["state_dict"].items()
        if name.startswith("mean.net.")
    }
    same = now.keys() == before.keys() and all(
        value.shape == before[name].shape and torch.equal(value, before[name].to(value))
        for name, value in now.items()
    )
    if not same:
        raise ConfigError(
            f"{config.mse_checkpoint} holds another network than this run began with",
            where="mse_checkpoint",
            fix="leave it as it was, or take another run_dir",
        )


def give(mean: Generator | None, generator: Generator) -> None:
    """Copy the weights of ``mean``, if it was read, into the flow."""
    if mean is not None:
        flow_of(generator).frozen.net.load_state_dict(mean.net.state_dict())
