"""Frozen VGG-19 features, and where their weights come from: never a silent stand-in."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from srtrain.checks import image_batch
from srtrain.download import download
from srtrain.errors import StorageError
from srtrain.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

EMBEDDED_FILE = Path(__file__).parent / "weights" / "first5_procedural.safetensors"
"""Fitted by ``scripts/fit_features.py``; its card lies beside it."""
EMBEDDED_CONVS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")


@dataclass(frozen=True)
class Conv:
    """One convolution of VGG-19: its place in torchvision's ``features`` and its channels."""

    index: int
    inputs: int
    outputs: int


def _vgg19() -> dict[str, Conv | None]:
    """Layer name -> convolution, or None for a max-pool, in order (Simonyan 2015, column E)."""
    layers: dict[str, Conv | None] = {}
    index, channels = 0, 3
    for block, (width, count) in enumerate(((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)), 1):
        for number in range(1, count + 1):
            layers[f"conv{block}_{number}"] = Conv(index, channels, width)
            index, channels = index + 2, width  # a ReLU follows each convolution
        layers[f"pool{block}"] = None
        index += 1
    return layers


VGG19 = _vgg19()


class VGG19Features(nn.Module):
    """Activations of VGG-19 at ``taps``; layers beyond the deepest tap are not built.

    The weights are buffers outside every state_dict, and need no gradient. ``taps`` are
    ``conv1_1`` … ``conv5_4``, after the ReLU unless ``before_relu``, or ``pool1`` … ``pool5``.

    Shapes: image (B, 3, H, W) in [0, 1] -> {tap: (B, C, H / 2^pools, W / 2^pools)}.
    Raises: ValueError for an unknown tap, an image that is no float RGB batch or vanishes in the
        pools; StorageError as ``load_weights``.
    Source: Simonyan & Zisserman 2015, configuration E.
    """

    def __init__(
        self,
        weights: str | Path = "embedded",
        *,
        taps: Sequence[str],
        before_relu: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.taps = frozenset(taps)
        self.before_relu = before_relu
        self.path = layers_up_to(taps)
        convs = [name for name in self.path if VGG19[name]]
        loaded = load_weights(weights, convs)
        self.features_name, self.features_sha256 = loaded.name, loaded.sha256
        for name in convs:
            weight, bias = loaded.tensors[name]
            weight = weight.contiguous(memory_format=torch.channels_last)
            self.register_buffer(f"{name}_weight", weight, persistent=False)
            self.register_buffer(f"{name}_bias", bias, persistent=False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """The activation at every tap, from shallow to deep."""
        self._check(image)
        tapped: dict[str, Tensor] = {}
        x = (image - self.get_buffer("mean")) / self.get_buffer("std")
        x = x.contiguous(memory_format=torch.channels_last)
        for name in self.path:
            if VGG19[name] is None:
                x = F.max_pool2d(x, 2)
            else:
                weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
                x = F.conv2d(x, weight, bias, padding=1)
                if self.before_relu and name in self.taps:
                    tapped[name] = x
                    x = F.relu(x) if name != self.path[-1] else x
                    continue
                x = F.relu_(x)
            if name in self.taps:
                tapped[name] = x
        return tapped

    def _check(self, image: Tensor) -> None:
        image_batch(image)
        smallest = 2 ** sum(VGG19[name] is None for name in self.path)
        if image.shape[1] != 3 or min(image.shape[2:]) < smallest:
            raise ValueError(
                f"image {tuple(image.shape)} must be RGB and at least {smallest} px to reach "
                f"{self.path[-1]}; is `data.hr_patch_size` too small?"
            )


@dataclass(frozen=True)
class Loaded:
    """Convolution name -> (weight, bias) in float32, the honest name, and the file's hash."""

    tensors: dict[str, tuple[Tensor, Tensor]]
    name: str
    sha256: str


def layers_up_to(taps: Iterable[str]) -> tuple[str, ...]:
    """The layers that must run to reach every tap.

    Raises: ValueError for a tap that VGG-19 has not.
    """
    order = list(VGG19)
    taps = list(taps)
    if not taps or (unknown := [tap for tap in taps if tap not in VGG19]):
        raise ValueError(f"taps {unknown if taps else taps} must be among {', '.join(order)}")
    return tuple(order[: 1 + max(order.index(tap) for tap in taps)])


def load_weights(source: str | Path, convs: Sequence[str]) -> Loaded:
    """Exactly ``convs`` from ``embedded``, ``imagenet`` or a file with torchvision's names.

    ``imagenet`` is torchvision's file in torch's cache, downloaded if it is not there. A file is
    ``.safetensors`` or a torch file, of ``features.N.weight`` alone or of a whole VGG-19.

    Raises: StorageError if the file cannot be had or read, lacks a tensor, or has another shape.
    """
    if source == "embedded":
        path, name = EMBEDDED_FILE, "first5/procedural"
    elif source == "imagenet":
        path, name = fetch_imagenet(), "vgg19/imagenet"
    else:
        path = Path(source).expanduser()
        name = f"vgg19/{path.stem}"
    state = _read(path, [key for conv in convs for key in _keys(conv)])
    tensors = {conv: _conv_tensors(conv, state, path) for conv in convs}
    return Loaded(tensors, name, sha256_of(path))


def imagenet_file() -> tuple[Path, str, str]:
    """Where torch keeps torchvision's VGG-19, its address, and the first digits of its hash."""
    from torchvision.models import VGG19_Weights

    url = VGG19_Weights.IMAGENET1K_V1.url
    name = url.rsplit("/", 1)[-1]
    return Path(torch.hub.get_dir()) / "checkpoints" / name, url, Path(name).stem.split("-")[-1]


def fetch_imagenet() -> Path:
    """The VGG-19 of torchvision from torch's cache, downloaded (575 MB) and checked if need be.

    Raises: StorageError with the command that fetches it.
    """
    path, url, digits = imagenet_file()
    try:
        return download(url, path, sha256=digits)
    except StorageError as error:
        raise StorageError(
            f"the ImageNet VGG19 is not to be had: {error.what}",
            where=str(path),
            fix="`srtrain fetch-weights vgg19` where there is a network, or copy the file there, "
            "or loss.terms.perceptual.features=PATH|embedded",
        ) from error


def calibration_batch() -> Tensor:
    """The fixed images ``(N, 3, 64, 64)`` in [0, 1] that tell how large an activation usually is.

    A few dead leaves, stored as uint8 beside the embedded weights so that no library's next
    version can change them.
    """
    with safe_open(EMBEDDED_FILE, framework="pt") as file:
        pixels: Tensor = file.get_tensor("calibration")
    return pixels.float() / 255


def _keys(conv: str) -> tuple[str, str]:
    layer = VGG19[conv]
    assert layer is not None
    return f"features.{layer.index}.weight", f"features.{layer.index}.bias"


def _read(path: Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """Those of ``keys`` that the file has."""
    if not path.is_file():
        raise StorageError(
            "no such features file",
            where=str(path),
            fix="loss.terms.perceptual.features=embedded|imagenet|PATH to .safetensors or .pth",
        )
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                present = set(file.keys())
                return {key: file.get_tensor(key) for key in keys if key in present}
        # torchvision's own file is older than the zip format, which alone can be mapped.
        state = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise StorageError(
            "not a readable weights file",
            where=str(path),
            fix=f"fetch it again ({type(error).__name__})",
        ) from error
    if not isinstance(state, dict):
        state = {}
    return {key: state[key] for key in keys if isinstance(state.get(key), Tensor)}


def _conv_tensors(conv: str, state: dict[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    layer = VGG19[conv]
    assert layer is not None
    shapes = ((layer.outputs, layer.inputs, 3, 3), (layer.outputs,))
    found = []
    for key, shape in zip(_keys(conv), shapes, strict=True):
        if key not in state or tuple(state[key].shape) != shape:
            has = tuple(state[key].shape) if key in state else "missing"
            raise StorageError(
                f"{key} ({conv}) is {has}, expected {shape}",
                where=str(path),
                fix="give a VGG19 with torchvision's names, or taps that need fewer layers",
            )
        found.append(state[key].float().clone())
        if not found[-1].isfinite().all():
            raise StorageError(
                f"{key} holds NaN or infinity", where=str(path), fix="fetch it again"
            )
    return found[0], found[1]
