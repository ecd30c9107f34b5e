"""From a spec ``{_target_, kwargs}`` to a network; only known code may be named by a file."""

from __future__ import annotations

import difflib
import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from srtrain.errors import ConfigError, StorageError
from srtrain.networks.discriminator import Discriminator
from srtrain.networks.generator import Generator
from srtrain.networks.heads import Head
from srtrain.networks.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# A checkpoint names a class; importing arbitrary modules on its word would run its author's code.
TRUSTED = ("srtrain.networks", "spandrel.architectures")


@dataclass(frozen=True)
class Needs:
    """Sizes that a network can take, in LR pixels."""

    multiple_of: int = 1
    min_size: int = 1


# What spandrel's descriptors declare at loading (`size_requirements`) and its classes do not know.
# Windowed attention pads by reflection inside, which needs an image as large as the window.
_WINDOWED = Needs(min_size=16)
_NEEDS: dict[str, Callable[[Mapping[str, Any]], Needs]] = {
    "spandrel.architectures.ATD.ATD": lambda kwargs: Needs(
        min_size=max(8, kwargs.get("window_size", 8))
    ),
    "spandrel.architectures.CRAFT.CRAFT": lambda _: Needs(multiple_of=16, min_size=16),
    "spandrel.architectures.DAT.DAT": lambda _: _WINDOWED,
    "spandrel.architectures.DCTLSA.DCTLSA": lambda _: _WINDOWED,
    "spandrel.architectures.DITN.DITN": lambda kwargs: Needs(
        multiple_of=kwargs.get("patch_size", 8)
    ),
    "spandrel.architectures.DRCT.DRCT": lambda kwargs: Needs(
        multiple_of=kwargs.get("window_size", 16)
    ),
    "spandrel.architectures.ESRGAN.ESRGAN": lambda kwargs: Needs(
        multiple_of=4 if kwargs.get("shuffle_factor") else 1, min_size=2
    ),
    "spandrel.architectures.HAT.HAT": lambda _: _WINDOWED,
    "spandrel.architectures.MoESR.MoESR": lambda _: Needs(min_size=2),
    "spandrel.architectures.OmniSR.OmniSR": lambda _: _WINDOWED,
    "spandrel.architectures.RGT.RGT": lambda _: _WINDOWED,
    "spandrel.architectures.SAFMN.SAFMN": lambda _: Needs(multiple_of=8),
    "spandrel.architectures.SeemoRe.SeemoRe": lambda _: _WINDOWED,
    "spandrel.architectures.Swin2SR.Swin2SR": lambda _: _WINDOWED,
    "spandrel.architectures.SwinIR.SwinIR": lambda kwargs: Needs(
        multiple_of=(kwargs.get("start_unshuffle") or 1) ** 2, min_size=16
    ),
}


def spec_of(node: Mapping[str, Any], *, group: str = "generator") -> Spec:
    """The spec of a flat configuration node ``{_target_: …, key: value, …}``.

    Raises: ConfigError without a ``_target_``.
    """
    kwargs = {str(key): value for key, value in node.items() if key != "_target_"}
    target = node.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(
            f"_target_ is {target!r}",
            where=f"{group}._target_",
            fix="give the dotted path of a network class",
        )
    return Spec(_target_=target, kwargs=kwargs)


def build_generator(
    spec: Spec, *, scale: int, head: Spec | None = None, trust: Sequence[str] = ()
) -> Generator:
    """The generator of ``spec``, freshly initialised.

    ``head``: what its maps mean, if it predicts more than an image; the network is then built with
    as many ``out_channels``. ``trust`` names packages beside srtrain's and spandrel's whose code
    may be imported. A class of such a package may state its size needs as attributes
    ``multiple_of`` and ``min_size``.

    Raises: StorageError if the package is not trusted; ConfigError if there is no such class, or
    if it refuses its arguments.
    """
    reads = None if head is None else build_head(head, trust=trust)
    target, kwargs = spec["_target_"], dict(spec["kwargs"])
    if reads is not None:
        _takes_out_channels(target, trust=trust)
        kwargs["out_channels"] = 3 * reads.num_maps
    elif kwargs.get("out_channels", 3) != 3:
        raise ConfigError(
            f"out_channels = {kwargs['out_channels']} and nothing that reads them",
            where="generator.out_channels",
            fix="leave it out: loss.head sets it",
        )
    built = Spec(_target_=target, kwargs=kwargs)
    net = build_network(built, group="generator", trust=trust)
    needs = size_needs(net, target, kwargs)
    return Generator(
        net,
        scale=scale,
        spec=built,
        multiple_of=needs.multiple_of,
        min_size=needs.min_size,
        head=reads,
    )


def build_discriminator(
    spec: Spec, *, bf16: bool = False, trust: Sequence[str] = ()
) -> Discriminator:
    """The discriminator of ``spec``, freshly initialised.

    Raises: as ``build_generator``; ConfigError unless the network says, as ``receptive_field``,
        how many pixels of a side one logit sees: generators do not.
    """
    net = build_network(spec, group="discriminator", trust=trust)
    if not hasattr(net, "receptive_field"):
        raise ConfigError(
            f"{spec['_target_']} is no discriminator: it has no `receptive_field`",
            where="discriminator._target_",
            fix="choose discriminator=patchgan | unet | vgg",
        )
    return Discriminator(net, spec=spec, bf16=bf16)


def build_head(spec: Spec, *, trust: Sequence[str] = ()) -> Head:
    """The head of ``spec``, uncalibrated.

    Raises: as ``build_generator``.
    """
    head = build_network(spec, group="loss.head", trust=trust)
    if not isinstance(head, Head):
        raise ConfigError(
            f"{spec['_target_']} is no head",
            where="loss.head",
            fix="srtrain.networks.heads has Quantiles, GaussianHead, LaplaceHead",
        )
    return head


def build_network(spec: Spec, *, group: str, trust: Sequence[str] = ()) -> nn.Module:
    """The network of ``spec``, freshly initialised; ``group`` is what errors call it.

    Raises: as ``build_generator``.
    """
    target, kwargs = spec["_target_"], spec["kwargs"]
    network = network_class(target, group=group, trust=trust)
    _check_arguments(network, target, kwargs, group=group)
    if _builds_others(network):  # never as a file says it
        kwargs = {**kwargs, "trust": tuple(trust)}
    try:
        return network(**kwargs)
    except (StorageError, ConfigError):  # of ``no_larger_than``
        raise
    except Exception as error:
        raise ConfigError(
            f"{target} refuses its parameters: {type(error).__name__}: {error}",
            where=group,
            fix=f"see its documentation: python -m pydoc {target}",
        ) from error


def size_needs(net: nn.Module, target: str, kwargs: Mapping[str, Any]) -> Needs:
    """From the table for spandrel's classes, else what the class itself says, else any size."""
    if target in _NEEDS:
        return _NEEDS[target](kwargs)
    return Needs(
        multiple_of=int(getattr(net, "multiple_of", 1)), min_size=int(getattr(net, "min_size", 1))
    )


def network_class(
    target: str, *, group: str, trust: Sequence[str] = ()
) -> Callable[..., nn.Module]:
    """The class of that dotted path.

    Raises: as ``build_generator``.
    """
    module_name, _, class_name = target.rpartition(".")
    if not _below(module_name, (*TRUSTED, *trust)):
        package = module_name.partition(".")[0] or target
        raise StorageError(
            f"the network is {target}, code outside srtrain and spandrel",
            where="_target_",
            fix=f"if you trust that package, add --trust {package}",
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"there is no {target}: {error}",
            where=f"{group}._target_",
            fix="give the dotted path of a network class that can be imported",
        ) from error
    # Re-exports count where the user trusts a package, not below the built-in prefixes.
    defined_here = _below(getattr(found, "__module__", ""), TRUSTED) or _below(module_name, trust)
    if not (inspect.isclass(found) and issubclass(found, nn.Module) and defined_here):
        raise ConfigError(
            f"{target} is not a network class",
            where=f"{group}._target_",
            fix="give the dotted path of a torch.nn.Module",
        )
    return cast("Callable[..., nn.Module]", found)


def _takes_out_channels(target: str, *, trust: Sequence[str]) -> None:
    network = network_class(target, group="generator", trust=trust)
    if "out_channels" not in inspect.signature(network).parameters:
        raise ConfigError(
            f"{target} predicts one image: it has no parameter out_channels",
            where="loss.head",
            fix="choose generator=edsr_lite | edsr | edsr_full | srresnet, or another loss",
        )


def _builds_others(network: Callable[..., nn.Module]) -> bool:
    """Whether it is a class of ours that builds networks from specs, and asks whom to trust."""
    ours = getattr(network, "__module__", "").startswith("srtrain.networks.")
    return ours and "trust" in inspect.signature(network).parameters


def _below(module_name: str, packages: Sequence[str]) -> bool:
    return any(module_name == name or module_name.startswith(f"{name}.") for name in packages)


def _check_arguments(
    network: Callable[..., nn.Module], target: str, kwargs: Mapping[str, Any], *, group: str
) -> None:
    """Raises ConfigError naming the first unknown or missing constructor argument."""
    parameters = inspect.signature(network).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    known = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and not (name == "trust" and _builds_others(network))
    ]
    unknown = sorted(set(kwargs) - set(known))
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"{target} has no parameter {unknown[0]!r}",
            where=f"{group}.{unknown[0]}",
            fix=f"{hint}it takes {', '.join(known)}",
        )
    missing = [
        name
        for name in known
        if parameters[name].default is inspect.Parameter.empty and name not in kwargs
    ]
    if missing:
        raise ConfigError(
            f"{target} needs the parameter {missing[0]!r}",
            where=f"{group}.{missing[0]}",
            fix=f"give it a value in the {group}'s YAML",
        )
