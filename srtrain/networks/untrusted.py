"""Weights files that would fill the memory: refused before, or as soon as, that can be seen.

``torch.load(weights_only=True)`` executes nothing, but it unpacks compressed entries of any size,
builds a ``bytearray`` of any length, doubles bytes by ``_codecs.encode`` as often as it is told,
and makes tensors that claim any size over one number.
"""

from __future__ import annotations

import mmap
import re
import zipfile
from typing import TYPE_CHECKING

from torch import Tensor

from srtrain.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

_GROWS = re.compile(rb"c(__builtin__|builtins)\nbytearray\n|c_codecs\nencode\n")
_FIX = "nothing was loaded; ask for a file that holds plain tensors, or .safetensors"


def refuse_bombs(path: Path) -> None:
    """Nothing, if a torch file can unpack to no more than it holds.

    Raises: StorageError for compressed entries, and for pickles that ask for what grows; OSError,
        zipfile.BadZipFile for damaged files.
    """
    if zipfile.is_zipfile(path):
        grows = _zip_grows(path)
    else:
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            with content:
                grows = _asks(content)
    if grows:
        raise StorageError(f"unsafe file: {grows}", where=str(path), fix=_FIX)


def refuse_claims(content: object, path: Path) -> None:
    """Nothing, if no tensor in ``content`` claims more bytes than the file ``path`` has.

    Raises: StorageError for such a tensor.
    """
    limit = path.stat().st_size
    pending, seen = [content], set()
    while pending:
        found = pending.pop()
        if isinstance(found, Tensor):
            claimed = found.numel() * found.element_size()
            if claimed > limit:
                what = f"unsafe file: a tensor claims {claimed} bytes, the file has {limit}"
                raise StorageError(what, where=str(path), fix=_FIX)
        elif isinstance(found, dict | list | tuple | set) and id(found) not in seen:
            seen.add(id(found))
            pending += found.values() if isinstance(found, dict) else found


def _zip_grows(path: Path) -> str:
    with zipfile.ZipFile(path) as file:
        size = path.stat().st_size
        unpacked = sum(entry.file_size for entry in file.infolist())
        if unpacked > size:
            return f"it unpacks to {unpacked} bytes, it has {size}"
        pickles = [name for name in file.namelist() if name.endswith(".pkl")]
        return next(filter(None, (_asks(file.read(name)) for name in pickles)), "")


def _asks(pickled: bytes | mmap.mmap) -> str:
    found = _GROWS.search(pickled)
    return "" if found is None else f"it asks for {'.'.join(found[0][1:].decode().split())}"
