"""From the composed configuration to objects; below here no configuration travels."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from srtrain.augmentation.batch import BatchAugmentation
from srtrain.cli.mean import give, load_mean, with_mean
from srtrain.cli.tiled import in_tiles
from srtrain.config.location import conf_dir
from srtrain.config.yamlfile import read_config
from srtrain.degradation.resize import Bicubic, shrunk, upscale_rounded
from srtrain.errors import ConfigError
from srtrain.losses.adversarial import Adversarial
from srtrain.losses.schedule import Ramp
from srtrain.losses.weighted_sum import WeightedSum
from srtrain.metrics.image_metrics import ImageMetrics, smallest_side
from srtrain.networks.build import build_discriminator, build_generator, spec_of
from srtrain.networks.transfer import discriminator_from, init_from
from srtrain.perception.lpips import LPIPS
from srtrain.training.bands import Bands
from srtrain.training.flow import FlowSR
from srtrain.training.flow_watch import FlowWatch
from srtrain.training.validation import Validation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor
    from torch.optim import Optimizer

    from srtrain.data.datamodule import SRData
    from srtrain.losses.adversarial import Objective
    from srtrain.networks.discriminator import Discriminator
    from srtrain.networks.generator import Generator
    from srtrain.networks.spec import Spec
    from srtrain.training.loop import Callback, Logger, TrainerOptions
    from srtrain.training.records import Records
    from srtrain.training.run_folder import RunFolder
    from srtrain.training.supervised import SupervisedSR

ADVERSARIAL = "adversarial"  # the term that a discriminator brings
WATCH = "adversary_watch"


def plain(node: Any) -> Any:  # noqa: ANN401 - any YAML
    """A configuration node as plain, resolved Python values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def make_generator(config: DictConfig, content: Mapping[str, Any] | None = None) -> Generator:
    """The generator, initialised by the seed; a flow's mean network, as it was trained.

    ``content``: of the checkpoint that is continued, which holds the mean's network too.
    """
    spec, mean = with_mean(spec_of(plain(config.generator)), config, content)
    head = spec_of(plain(config.loss.head), group="loss.head") if config.loss.head else None
    # Whoever names a class of an own package in an own configuration trusts that package.
    own_packages = {named["_target_"].partition(".")[0] for named in (spec, head) if named}
    trust = [*config.trust, *sorted(own_packages)]
    generator = build_generator(spec, scale=config.scale, head=head, trust=trust)
    give(mean, generator)
    return generator


def make_discriminator(config: DictConfig, options: TrainerOptions) -> Discriminator | None:
    """The discriminator, initialised by the seed; None where there is no adversary."""
    node = plain(config.discriminator)
    if not node:
        return None
    spec = spec_of(node, group="discriminator")
    own_package = spec["_target_"].partition(".")[0]
    bf16 = options.lightning_precision != "32-true"
    return build_discriminator(spec, bf16=bf16, trust=[*config.trust, own_package])


def generator_options(scale: int) -> dict[str, Spec]:
    """What ``generator=`` may be, by name, as srtrain's own files say it."""
    paths = sorted((conf_dir() / "generator").glob("*.yaml"))
    files = {path.stem: dict(read_config(path).values) for path in paths}
    nodes = plain(OmegaConf.create({"scale": scale, "options": files}))["options"]
    return {name: spec_of(node) for name, node in nodes.items()}


def load_initial_weights(
    config: DictConfig, generator: Generator, discriminator: Discriminator | None
) -> list[str]:
    """``init_from``: copies what fits; returns the lines that say what did."""
    path, partial = Path(config.init_from.path), config.init_from.partial
    said = [str(init_from(generator, path, partial=partial, options=generator_options))]
    give(load_mean(config) if config.mse_checkpoint else None, generator)  # not another flow's
    if discriminator is not None:
        said.append(discriminator_from(discriminator, path))
    return said


def make_loss(
    config: DictConfig, generator: Generator, discriminator: Discriminator | None
) -> WeightedSum:
    """The terms whose weight is not 0, built; the others are not even imported."""
    weights = {name: float(w) for name, w in plain(config.loss.weights).items() if w}
    terms = {
        name: instantiate(config.loss.terms[name], _convert_="all")
        for name in weights
        if name != ADVERSARIAL
    }
    if discriminator is not None:
        objective = make_objective(config)
        _refuse_batch_statistics(discriminator, objective)
        terms[ADVERSARIAL] = Adversarial(objective, discriminator)
    schedules = {name: Ramp(**ramp) for name, ramp in plain(config.loss.schedule).items()}
    return WeightedSum(terms, weights, schedules=schedules, head=generator.head)


def _refuse_batch_statistics(discriminator: Discriminator, objective: Objective) -> None:
    """What bounds the gradient of single images cannot be had of a network that mixes them."""
    mixing = [m for m in discriminator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if mixing and objective.penalised:
        raise ConfigError(
            f"{type(objective).__name__}'s penalty bounds the gradient of single images; the "
            f"discriminator's {type(mixing[0]).__name__} mixes them",
            where="discriminator",
            fix="take one without batch norm; or objective.r1_gamma=0 and no gradient penalty",
        )


def make_objective(config: DictConfig) -> Objective:
    """What generator and discriminator want of each other."""
    objective: Objective = instantiate(config.objective, _convert_="all")
    return objective


def make_metrics(config: DictConfig) -> ImageMetrics:
    """The standard protocol; LPIPS where a net was named; a flow's steps are part of it."""
    net, features = config.metrics.lpips.net, config.metrics.lpips.features
    lpips = LPIPS(net, features) if net else None
    bicubic = Bicubic(scale=config.scale)

    def downscale(sr: Tensor) -> Tensor:
        lr: Tensor = bicubic(sr, None)
        return lr

    blind = config.degradation._target_ != f"{Bicubic.__module__}.{Bicubic.__qualname__}"
    drawn = ("steps", "sampler", "project")
    sampled = {key: config.generator[key] for key in drawn} if _is_flow(config) else None
    return ImageMetrics(
        scale=config.scale, lpips=lpips, downscale=downscale, blind=blind, sampled=sampled
    )


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
    config: DictConfig,
    options: TrainerOptions,
    generator: Generator,
    discriminator: Discriminator | None,
    data: SRData,
) -> SupervisedSR:
    """The LightningModule with everything it is given."""
    with _refused("loss"):
        loss = make_loss(config, generator, discriminator)
    _rehearse_loss(config, generator, discriminator, loss)
    downscale = partial(Bicubic(scale=config.scale), sample=None)
    given = {
        "generator": generator,
        "loss": loss,
        "degradation": instantiate(config.degradation, _convert_="all"),
        "validation": _validation(config, generator, data),
        "optimizer": _rehearsed(config, "optimizer", options),
        "scheduler": instantiate(config.scheduler, _convert_="all"),
        "target": instantiate(config.model.target, _convert_="all"),
        "augment": _augmentation(config, downscale),
        "accumulate": options.accumulate,
    }
    if discriminator is not None:
        given |= {
            "discriminator": discriminator,
            "objective": loss.terms[ADVERSARIAL].objective,
            "discriminator_optimizer": _rehearsed(config, "discriminator_optimizer", options),
            "downscale": partial(shrunk, scale=config.scale),
            "seed": config.seed,
        }
    if _is_flow(config):
        given |= {"seed": config.seed}
    module: SupervisedSR = instantiate(config.model, **given, _recursive_=False)
    return module


def _is_flow(config: DictConfig) -> bool:
    return bool(config.model._target_ == f"{FlowSR.__module__}.{FlowSR.__qualname__}")


def _validation(config: DictConfig, generator: Generator, data: SRData) -> Validation:
    scale = config.scale
    return Validation(
        metrics=make_metrics(config),
        upscale=lambda lr: upscale_rounded(lr, scale=scale),
        names=list(data.val_names),
        num_panels=_num_panels(config),
        bands=Bands(generator.head) if generator.head is not None else None,
        tiled=partial(in_tiles, generator),
    )


def _rehearsed(config: DictConfig, group: str, options: TrainerOptions) -> Callable[..., Optimizer]:
    """The optimizer's factory, once it has made one that the schedule takes."""
    optimizer: Callable[..., Optimizer] = instantiate(config[group], _convert_="all")
    with _refused(group):
        made = optimizer([torch.zeros(1, requires_grad=True)])
    with _refused("scheduler"):
        instantiate(config.scheduler, _convert_="all")(made, max_steps=options.max_steps)
    return optimizer


def _rehearse_loss(
    config: DictConfig,
    generator: Generator,
    discriminator: Discriminator | None,
    loss: WeightedSum,
) -> None:
    side, maps = config.data.hr_patch_size, generator.head.num_maps if generator.head else 1
    networks = [] if discriminator is None else [discriminator.eval()]  # no statistics of this
    with _refused("loss"), torch.no_grad():
        patch = torch.full((1, 3, side, side), 0.5)
        loss(patch.repeat(1, maps, 1, 1), patch, average=patch)
    for network in networks:
        network.train()


def _augmentation(
    config: DictConfig, downscale: Callable[[Tensor], Tensor]
) -> BatchAugmentation | None:
    with _refused("model.augment"):
        made = BatchAugmentation(
            seed=config.seed, downscale=downscale, **plain(config.model.augment)
        )
    return made if made.active else None


@contextmanager
def _refused(group: str) -> Iterator[None]:
    """A rehearsal: what torch would refuse at the first step is refused as configuration."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(str(error), where=group, fix=f"srtrain --cfg shows `{group}`") from error


def make_callbacks(config: DictConfig, folder: RunFolder, records: Records) -> list[Callback]:
    """The callbacks of ``conf/callbacks``, in their order, told where to write what.

    The adversary's watch is left out where there is none; a flow has its own.
    """
    told: dict[str, dict[str, Any]] = {
        "pictures": {"folder": folder},
        WATCH: {"folder": folder, "records": records},
    }
    made = []
    for name, node in config.callbacks.items():
        if node is None or (name == WATCH and not config.discriminator):
            continue
        made.append(instantiate(node, _convert_="all", **told.get(str(name), {})))
    return [*made, FlowWatch(records)] if _is_flow(config) else made


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
