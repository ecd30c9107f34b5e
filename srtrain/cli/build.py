"""From the composed configuration to objects; below here no configuration travels."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from srtrain.degradation.resize import Bicubic, upscale_rounded
from srtrain.errors import ConfigError
from srtrain.losses.weighted_sum import WeightedSum
from srtrain.metrics.image_metrics import ImageMetrics, smallest_side
from srtrain.networks.build import build_generator, spec_of
from srtrain.networks.transfer import init_from
from srtrain.perception.lpips import LPIPS
from srtrain.training.validation import Validation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from srtrain.data.datamodule import SRData
    from srtrain.networks.generator import Generator
    from srtrain.training.loop import Callback, Logger, TrainerOptions
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR


def plain(node: Any) -> Any:  # noqa: ANN401 - any YAML
    """A configuration node as plain, resolved Python values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def make_generator(config: DictConfig) -> Generator:
    """The generator, initialised by the seed or from a file."""
    spec = spec_of(plain(config.generator))
    # Whoever names a class of an own package in an own configuration trusts that package.
    own_package = spec["_target_"].partition(".")[0]
    return build_generator(spec, scale=config.scale, trust=[*config.trust, own_package])


def load_initial_weights(config: DictConfig, generator: Generator) -> str | None:
    """``init_from``: copies what fits; returns the line that says what did."""
    if not config.init_from.path:
        return None
    path = Path(config.init_from.path)
    transfer = init_from(generator, path, partial=config.init_from.partial)
    return str(transfer)


def make_loss(config: DictConfig) -> WeightedSum:
    """The terms whose weight is not 0, built; the others are not even imported."""
    weights = {name: float(w) for name, w in plain(config.loss.weights).items() if w}
    terms = {name: instantiate(config.loss.terms[name], _convert_="all") for name in weights}
    return WeightedSum(terms, weights)


def make_metrics(config: DictConfig) -> ImageMetrics:
    """The standard protocol; LPIPS where a net was named."""
    net, features = config.metrics.lpips.net, config.metrics.lpips.features
    lpips = LPIPS(net, features) if net else None
    bicubic = Bicubic(scale=config.scale)

    def downscale(sr: Tensor) -> Tensor:
        lr: Tensor = bicubic(sr, None)
        return lr

    return ImageMetrics(scale=config.scale, lpips=lpips, downscale=downscale)


def make_data(config: DictConfig, options: TrainerOptions) -> SRData:
    """Sources, cache and loaders."""
    cache = config.paths.cache
    data: SRData = instantiate(
        config.data,
        scale=config.scale,
        seed=config.seed,
        cache_dir=Path(cache) if cache else None,
        accumulate=options.accumulate,
        min_val_size=smallest_side(scale=config.scale, lpips_net=config.metrics.lpips.net),
        _convert_="all",
    )
    return data


def make_module(
    config: DictConfig, options: TrainerOptions, generator: Generator, data: SRData
) -> SupervisedSR:
    """The LightningModule with everything it is given."""
    scale = config.scale
    validation = Validation(
        metrics=make_metrics(config),
        upscale=lambda lr: upscale_rounded(lr, scale=scale),
        names=list(data.val_names),
        num_panels=_num_panels(config),
    )
    loss = make_loss(config)
    optimizer = instantiate(config.optimizer, _convert_="all")
    scheduler = instantiate(config.scheduler, _convert_="all")
    with _refused("optimizer"):
        rehearsed = optimizer([torch.zeros(1, requires_grad=True)])
    with _refused("scheduler"):
        scheduler(rehearsed, max_steps=options.max_steps)
    with _refused("loss"), torch.no_grad():
        patch = torch.full((1, 3, config.data.hr_patch_size, config.data.hr_patch_size), 0.5)
        loss(patch, patch)
    module: SupervisedSR = instantiate(
        config.model,
        generator=generator,
        loss=loss,
        degradation=instantiate(config.degradation, _convert_="all"),
        validation=validation,
        optimizer=optimizer,
        scheduler=scheduler,
        accumulate=options.accumulate,
        _recursive_=False,
    )
    return module


@contextmanager
def _refused(group: str) -> Iterator[None]:
    """A rehearsal: what torch would refuse at the first step is refused as configuration."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(str(error), where=group, fix=f"srtrain --cfg shows `{group}`") from error


def make_callbacks(config: DictConfig, folder: RunFolder) -> list[Callback]:
    """The callbacks of ``conf/callbacks``, in their order; ``pictures`` is told the folder."""
    made = []
    for name, node in config.callbacks.items():
        if node is None:
            continue
        extra = {"folder": folder} if name == "pictures" else {}
        made.append(instantiate(node, _convert_="all", **extra))
    return made


def make_loggers(config: DictConfig, folder: RunFolder) -> list[Logger]:
    """The loggers of ``conf/logger``; one that cannot work is left out, said so by itself."""
    made = [
        instantiate(node, run_dir=folder.path, _convert_="all")
        for node in (config.logger or {}).values()
    ]
    return [logger for logger in made if logger is not None]


def _num_panels(config: DictConfig) -> int:
    pictures = config.callbacks.get("pictures")
    return int(pictures.max_images) if pictures else 0
