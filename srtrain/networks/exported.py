"""The safetensors file that is handed over: bare tensors, and what rebuilds their network.

Other tools (spandrel, hence chaiNNer and ComfyUI) know a network by its tensors' names and read
nothing else. The header's text, which they ignore, says under ``srtrain`` what an own checkpoint
says: ``generator`` {``_target_``, ``kwargs``}, ``scale``, ``step``, ``version``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save

from srtrain.errors import StorageError
from srtrain.networks.spec import refuse_unbuildable
from srtrain.networks.storage import is_safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

KEY = "srtrain"
FORMAT = 1
NEEDED = ("format", "generator", "scale")


def packed(
    state: Mapping[str, Tensor], about: Mapping[str, Any], *, dtype: torch.dtype | None = None
) -> bytes:
    """The file's content; floating-point tensors as ``dtype``.

    Tensors that share memory are written once each, as the format has it.
    """
    tensors = {name: _alone(tensor, dtype) for name, tensor in state.items()}
    said = json.dumps({"format": FORMAT, **about}, ensure_ascii=False, allow_nan=False)
    return save(tensors, {"format": "pt", KEY: said})


def exported_content(content: object, path: Path) -> dict[str, Any] | None:
    """``content`` of a file of ``packed`` as an own checkpoint's; None for any other file.

    Raises: StorageError if what it says of itself cannot be read.
    """
    if not is_safetensors(path):
        return None
    with safe_open(path, "pt") as file:
        said = (file.metadata() or {}).get(KEY)
    if said is None:
        return None
    try:
        about = json.loads(said)
        found = {key: about[key] for key in NEEDED}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StorageError(
            "the header does not say whose weights these are",
            where=str(path),
            fix="export it again",
        ) from error
    if found["format"] != FORMAT:
        raise StorageError(
            f"exported in format {found['format']}, this srtrain reads {FORMAT}",
            where=str(path),
            fix="use the srtrain version that wrote it",
        )
    refuse_unbuildable(found, path)
    return {**about, "state_dict": content}


def _alone(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.contiguous().clone()
