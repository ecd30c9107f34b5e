"""Safetensors: the bare generator, as spandrel, hence chaiNNer and ComfyUI, opens it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from srtrain.errors import StorageError
from srtrain.inference.export.agreement import HALF, agreement
from srtrain.inference.export.made import Made
from srtrain.networks.exported import packed
from srtrain.networks.loading import load_generator, through_spandrel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from srtrain.networks.generator import Generator

EQUAL = 1e-5  # of images in [0, 1]: the same weights in the same order of operations
LEVEL = 1 / 255


def to_safetensors(
    generator: Generator, about: Mapping[str, Any], *, half: bool, trust: Sequence[str] = ()
) -> Made:
    """The file's content, read back by srtrain and by spandrel and compared before it is given.

    ``about`` goes into the header beside what rebuilds the network. ``half``: weights in fp16;
    readers compute with them in fp32.

    Raises: StorageError if what is read back makes other images, or if the network has arguments
        that no text can hold.
    """
    named = {"generator": dict(generator.spec), "scale": generator.scale, **about}
    dtype = torch.float16 if half else torch.float32
    try:
        content = packed(generator.net.state_dict(), named, dtype=dtype)
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(
            f"its arguments cannot be written: {error}", where=generator.spec["_target_"]
        ) from error
    with tempfile.TemporaryDirectory(prefix="srtrain-export-") as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        read_back = load_generator(path, trust=trust)
        same = agreement(generator, read_back)
        if not same.within(HALF if half else EQUAL):
            raise StorageError(
                f"the exported file makes other images, by {same}",
                fix="use --precision fp32" if half else "please report this",
            )
        opens, warnings = _others(path, read_back)
    if same.shown > LEVEL:
        warnings.append(f"in fp16 its images move by {same.shown / LEVEL:.1f} gray levels at most")
    rounded = "weights rounded to fp16 move the image by" if half else "difference from the model"
    return Made(content, {"opens in": opens, "checked": f"{rounded} {same}"}, warnings)


def _others(path: Path, own: Generator) -> tuple[str, list[str]]:
    """Which programs open the file, and what is to be warned of."""
    name = own.architecture
    alone = "srtrain (load_model, infer, init_from)"
    cannot = f"{alone}; not in chaiNNer or ComfyUI"
    try:
        theirs = through_spandrel(path)
    except StorageError as error:
        return f"{cannot}: spandrel does not open {name} ({error.what})", []
    if theirs.scale == own.scale:
        same = agreement(own, theirs)
        if same.within(EQUAL):
            return f"srtrain, and all that use spandrel: chaiNNer, ComfyUI (difference {same})", []
        what = f"makes other images of it, by {same.shown:.2g}"
    else:
        what = f"takes it for ×{theirs.scale}"
    note = f"spandrel, hence chaiNNer and ComfyUI, {what}: it cannot recover {name}'s parameters"
    return cannot, [f"{note}; srtrain reads them from the file's header"]
