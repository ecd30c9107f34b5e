"""The ImageNet networks under LPIPS and DISTS, from a local file; nothing is downloaded."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn

from srtrain.checks import same_shape
from srtrain.errors import ConfigError, StorageError
from srtrain.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Backbone(NamedTuple):
    """A network of torchvision and where it is tapped."""

    build: Callable[[], nn.Sequential]
    taps: tuple[int, ...]  # each slice ends before this index of `features`
    min_size: int  # pixels a side below which its pools leave nothing
    file: str  # torchvision's name for it in torch's cache


def _vgg16_features() -> nn.Sequential:
    features: nn.Sequential = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    return features


# Taps of Zhang et al.'s own code (PerceptualSimilarity/lpips/pretrained_networks.py).
BACKBONES = {
    "squeeze": Backbone(
        lambda: torchvision.models.squeezenet1_1().features,
        taps=(2, 5, 8, 10, 11, 12, 13),
        min_size=17,
        file="squeezenet1_1-b8a52dc0.pth",
    ),
    "alex": Backbone(
        lambda: torchvision.models.alexnet().features,
        taps=(2, 5, 8, 10, 12),
        min_size=31,
        file="alexnet-owt-7be5be79.pth",
    ),
    "vgg": Backbone(
        _vgg16_features, taps=(4, 9, 16, 23, 30), min_size=16, file="vgg16-397923af.pth"
    ),
}


class Asker(NamedTuple):
    """Who wants a backbone, for messages: its name, its key, and how its weights are fetched."""

    name: str
    key: str
    fetch: str

    @property
    def features(self) -> str:
        """What names the file: a key's own, or the option that ``key`` is."""
        return f"{self.key} FILE" if self.key.startswith("--") else f"{self.key}.features"


class Slices(NamedTuple):
    """A backbone cut at its taps, the honest name of its weights, and their file's hash."""

    layers: list[nn.Sequential]
    features_name: str
    features_sha256: str


def backbone(net: str, asker: Asker) -> Backbone:
    """The one called ``net``.

    Raises: ConfigError if there is none.
    """
    if net not in BACKBONES:
        raise ConfigError(
            f"{asker.name} has no net {net!r}",
            where=f"{asker.key}.net",
            fix=f"one of {', '.join(BACKBONES)}",
        )
    return BACKBONES[net]


def load_slices(net: str, features: str | Path | None, asker: Asker) -> Slices:
    """The backbone with the weights of ``features``; None: torchvision's file in torch's cache.

    A file is .safetensors or .pth with keys ``features.N.…`` or ``N.…``. The weights become
    buffers outside every state_dict: nobody trains them, no checkpoint carries them.

    Raises: ConfigError for an unknown net; StorageError for a file that is missing, unreadable or
        of another network.
    """
    chosen = backbone(net, asker)
    path = Path(features).expanduser() if features else _cache() / chosen.file
    layers = _fill(chosen.build, _read(path, asker), path, net, asker)
    edges = (0, *chosen.taps)
    return Slices(
        [layers[start:end] for start, end in itertools.pairwise(edges)],
        f"{net}/{path.stem if features else 'imagenet'}",
        sha256_of(path),
    )


def check_pair(sr: Tensor, hr: Tensor, *, name: str, min_size: int) -> None:
    """Raises ValueError unless both are RGB batches of one shape that ``name`` can look at."""
    same_shape(sr, hr)
    if sr.ndim != 4 or sr.shape[1] != 3 or min(sr.shape[-2:]) < min_size:
        raise ValueError(
            f"{name} needs 3 channels and at least {min_size} pixels a side, got {tuple(sr.shape)}"
        )


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _read(path: Path, asker: Asker) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        raise StorageError(
            f"no {asker.name} backbone here",
            where=str(path),
            fix=f"srtrain fetch-weights {asker.fetch}, or set {asker.features}",
        ) from None
    except (OSError, RuntimeError, SafetensorError, ValueError, pickle.UnpicklingError) as error:
        raise StorageError(
            f"{asker.name} backbone cannot be read: {error}",
            where=str(path),
            fix="give torchvision's .pth or .safetensors",
        ) from error
    return content if isinstance(content, dict) else {}


def _fill(
    build: Callable[[], nn.Sequential],
    weights: dict[str, Tensor],
    path: Path,
    net: str,
    asker: Asker,
) -> nn.Sequential:
    # On the meta device nothing is allocated: AlexNet and VGG16 come with huge classifiers.
    with torch.device("meta"):
        features = build()
    found = {
        key.removeprefix("features."): value.float()
        for key, value in weights.items()
        if not key.startswith("classifier.") and isinstance(value, Tensor)
    }
    try:
        features.load_state_dict(found, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise StorageError(
            f"these are not the features of {asker.name} net {net!r}: {first}",
            where=str(path),
            fix=f"the network and {asker.features} must belong together",
        ) from error
    _freeze(features)
    return features


def _freeze(network: nn.Module) -> None:
    """Every parameter becomes a buffer outside the state_dict."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)
