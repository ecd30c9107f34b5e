"""From a file to a network: own checkpoints, and what others publish, through spandrel."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from srtrain.errors import ConfigError, StorageError
from srtrain.networks.build import build_generator
from srtrain.networks.exported import exported_content
from srtrain.networks.generator import Generator
from srtrain.networks.spec import Spec
from srtrain.networks.storage import is_own_checkpoint, load_tensors, own_content, resolve
from srtrain.networks.untrusted import no_larger_than

if TYPE_CHECKING:
    from collections.abc import Sequence

StateDict = dict[str, Tensor]

# Where trainers put the weights, the averaged ones first.
_WRAPPERS = (
    "params_ema",
    "params-ema",
    "params",
    "model_state_dict",
    "state_dict",
    "net_g_ema",
    "net_g",
    "netG",
    "generator",
    "model",
    "net",
)
_DEEPEST = 16  # a dictionary may contain itself
_TENSORS = {"state_dict", "train_state"}  # of our own files
# A whole training module was saved: only these keys are the generator's.
_GENERATOR_PREFIXES = ("generator.", "net_g_ema.", "net_g.", "netG.")
# What DataParallel, torch.compile and our own wrapper put before every name.
_PREFIXES = ("module.", "_orig_mod.", "net.", "model.")

# Spandrel's image models that are not called as `net(image)`: noise maps, styles, patches.
SPECIAL_CALLS = frozenset(
    {
        "DRUNet",
        "DnCNN",
        "FBCNN",
        "GFPGAN",
        "IPT",
        "MMRealSR",
        "MixDehazeNet",
        "RestoreFormer",
        "RetinexFormer",
    }
)


@dataclass(frozen=True)
class Loaded:
    """A generator in evaluation mode, on the CPU, and where it came from.

    ``about`` is what our own files say of themselves beside tensors; empty of a community file.
    """

    generator: Generator
    file: Path
    about: dict[str, Any]


def load_generator(path: Path, *, trust: Sequence[str] = ()) -> Generator:
    """The network kept in ``path``, in evaluation mode, on the CPU.

    ``path`` is an own checkpoint, the pointer ``last``, a run folder, a file of ``srtrain export``,
    or a community file (.pth, .pt, .ckpt, .safetensors) of an architecture that spandrel
    recognises. Nothing in a file is executed; ``trust`` names packages that its network may come
    from, beside srtrain and spandrel.

    Raises: StorageError if the file is damaged, unsafe, or holds no network that can be rebuilt.
    """
    return load(path, trust=trust).generator


def load(path: Path, *, trust: Sequence[str] = ()) -> Loaded:
    """As ``load_generator``, with what the file says of itself.

    Raises: as ``load_generator``.
    """
    file = resolve(path)
    content = load_tensors(file)
    own = own_content(content, file) if is_own_checkpoint(content) else None
    own = own or exported_content(content, file)
    if own is None:
        return Loaded(community_generator(unwrap(content, file), file).eval(), file, {})
    about = {key: value for key, value in own.items() if key not in _TENSORS}
    return Loaded(_own(own, file, trust).eval(), file, about)


def read_state(path: Path) -> StateDict:
    """The bare tensors of the generator in ``path``, whatever they are wrapped in.

    Raises: StorageError if the file is damaged, unsafe, or holds no tensors.
    """
    file = resolve(path)
    return unwrap(load_tensors(file), file)


def unwrap(content: object, path: Path) -> StateDict:
    """The network's tensors by their bare names, out of the dictionaries around them.

    Known: our checkpoints, ``params_ema``, ``params``, ``state_dict``, ``net_g`` and the like,
    nested as it may be; prefixes ``net_g.``, ``generator.``, ``module.``, ``_orig_mod.`` in any
    order. Where a file holds a generator among other networks, only the generator is taken.

    Raises: StorageError if there are no tensors.
    """
    for _ in range(_DEEPEST):
        if not isinstance(content, dict):
            break
        inner = next((content[key] for key in _WRAPPERS if _is_mapping(content.get(key))), None)
        if inner is None:
            break
        content = inner
    found = content.items() if isinstance(content, dict) else ()
    state = {str(name): value for name, value in found if isinstance(value, Tensor)}
    if not state:
        raise StorageError(
            "no network weights in this file",
            where=str(path),
            fix="give a file that maps names to tensors, alone or under params or state_dict",
        )
    return _strip(state)


def community_generator(state: StateDict, path: Path) -> Generator:
    """The network that spandrel recognises by the names in ``state``, with those weights.

    Raises: StorageError if it recognises none, or one that is no RGB super-resolution network.
    """
    from spandrel import ImageModelDescriptor

    found = _recognised(state, path)
    architecture = found.architecture.name
    usable = isinstance(found, ImageModelDescriptor) and found.purpose != "FaceSR"
    if not usable or found.architecture.id in SPECIAL_CALLS:
        raise StorageError(
            f"{architecture} is no network from an LR image alone to an SR image",
            where=str(path),
            fix="give a super-resolution model",
        )
    if (found.input_channels, found.output_channels) != (3, 3):
        raise StorageError(
            f"{architecture} from {found.input_channels} to {found.output_channels} channels",
            where=str(path),
            fix="give a model from RGB to RGB",
        )
    needs = found.size_requirements
    return Generator(
        found.model,
        scale=found.scale,
        spec=spec_of_network(found.model),
        multiple_of=needs.multiple_of,
        min_size=max(1, needs.minimum),
    )


def through_spandrel(path: Path) -> Generator:
    """The network as programs that use spandrel open this file: read by spandrel alone.

    Raises: StorageError if it does not know the architecture, or not as one from RGB to RGB.
    """
    from spandrel import ModelLoader

    return community_generator(ModelLoader().load_state_dict_from_file(path), path).eval()


def spec_of_network(net: nn.Module) -> Spec:
    """What rebuilds a network of spandrel: its public name, and arguments that are no defaults."""
    package = ".".join(type(net).__module__.split(".")[:3])
    public = importlib.import_module(package)
    name = next(name for name in public.__all__ if getattr(public, name) is type(net))
    parameters = inspect.signature(type(net)).parameters
    given: dict[str, Any] = getattr(net, "hyperparameters", {})
    kwargs = {
        key: _plain(value)
        for key, value in given.items()
        if key in parameters and value != parameters[key].default
    }
    return Spec(_target_=f"{package}.{name}", kwargs=kwargs)


def _recognised(state: StateDict, path: Path) -> Any:  # noqa: ANN401 - spandrel's descriptor
    # Three CPU-seconds (torchvision) that own checkpoints need not pay.
    from spandrel import ModelLoader, UnsupportedModelError

    try:
        with no_larger_than(state, path):  # sides and depths are read off shapes and names
            return ModelLoader().load_from_state_dict(dict(state))
    except StorageError:
        raise
    except UnsupportedModelError as error:
        raise StorageError(
            "spandrel knows no architecture with these tensor names",
            where=f"{path} ({', '.join(list(state)[:3])}, …)",
            fix="train from it with init_from=FILE and the generator that it belongs to",
        ) from error
    except Exception as error:  # detection is by names alone: any shape may then be wrong
        raise StorageError(
            f"the weights do not fit the architecture they look like: {error}",
            where=str(path),
            fix="download it again, or from another place",
        ) from error


def _own(content: dict[str, Any], path: Path, trust: Sequence[str]) -> Generator:
    try:
        with no_larger_than(content["state_dict"], path):
            generator = build_generator(
                content["generator"], scale=content["scale"], head=content.get("head"), trust=trust
            )
        generator.net.load_state_dict(content["state_dict"])
        if generator.head is not None:
            measured = content["calibration"]
            generator.head.calibrate(offset=measured["offset"], images=measured["images"])
    except (ConfigError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"the network cannot be rebuilt: {(str(error).splitlines() or [''])[0]}",
            where=str(path),
            fix="use the srtrain and spandrel versions that wrote it",
        ) from error
    return generator


def _strip(state: StateDict) -> StateDict:
    while True:
        for prefix in _GENERATOR_PREFIXES:
            if any(name.startswith(prefix) for name in state):
                state = _without(prefix, state)
                break
        else:
            prefix = next((prefix for prefix in _PREFIXES if _is_wrapped(state, prefix)), "")
            if not prefix:
                return state
            state = _without(prefix, state)


def _without(prefix: str, state: StateDict) -> StateDict:
    return {name[len(prefix) :]: state[name] for name in state if name.startswith(prefix)}


def _is_wrapped(state: StateDict, prefix: str) -> bool:
    """Whether all names have ``prefix``; the numbers after it in old ESRGAN files are names."""
    return all(name.startswith(prefix) and not name[len(prefix)].isdigit() for name in state)


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) and len(value) > 0


def _plain(value: object) -> object:
    """JSON's types, which checkpoints hold.

    Raises: TypeError for anything else.
    """
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} cannot be kept in a checkpoint")
