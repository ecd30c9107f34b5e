"""Weights files that would fill the memory: refused before, or as soon as, that can be seen.

``torch.load(weights_only=True)`` executes nothing, but it unpacks compressed entries of any size,
builds a ``bytearray`` of any length, doubles bytes by ``_codecs.encode`` as often as it is told,
and makes tensors that claim any size over one number. A file may also name a network of trusted
code, a million channels wide.
"""

from __future__ import annotations

import mmap
import re
import threading
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from srtrain.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

_GROWS = re.compile(rb"c(__builtin__|builtins)\nbytearray\n|c_codecs\nencode\n")
# Constructors may register a tensor twice, and some that they then derive or drop.
_TIMES, _MORE_NUMBERS, _MORE_TENSORS = 4, 2**24, 1000
_FIX = "nothing was loaded; ask for a file that holds plain tensors, or .safetensors"


def refuse_bombs(path: Path) -> None:
    """Nothing, if a torch file can unpack to no more than it holds.

    Raises: StorageError for compressed entries, for pickles that ask for what grows, and for
        programs (TorchScript); OSError, zipfile.BadZipFile for damaged files.
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


@contextmanager
def no_larger_than(state: Mapping[str, Tensor], path: Path) -> Iterator[None]:
    """Within, this thread builds no network that is far larger than ``state``.

    Parameters and buffers are counted as they are registered; what each operation would give, by
    its shape alone, before it is run: the index of a window grows with the fourth power of a side.

    Raises: StorageError as soon as it has.
    """
    most = _TIMES * sum(tensor.numel() for tensor in state.values()) + _MORE_NUMBERS
    numbers, tensors = most, _TIMES * len(state) + _MORE_TENSORS
    thread = threading.get_ident()

    def refuse() -> None:
        what = "unsafe file: the network that it names is far larger than its weights"
        raise StorageError(what, where=str(path), fix=_FIX)

    def count(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        nonlocal numbers, tensors
        if tensor is None or is_lazy(tensor) or threading.get_ident() != thread:
            return
        numbers, tensors = numbers - tensor.numel(), tensors - 1
        if min(numbers, tensors) < 0:
            refuse()

    of_parameters = register_module_parameter_registration_hook(count)
    of_buffers = register_module_buffer_registration_hook(count)
    try:
        with _Foreseen(most, refuse):
            yield
    finally:
        of_parameters.remove()
        of_buffers.remove()


class _Foreseen(TorchDispatchMode):
    """Calls ``refuse`` before an operation of this thread that would give over ``most`` numbers."""

    def __init__(self, most: int, refuse: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = most
        self.refuse = refuse

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's
        kwargs = kwargs or {}
        if not func._schema.is_mutable and _largest(func, args, kwargs) > self.most:
            self.refuse()
        return func(*args, **kwargs)


def _largest(func: Any, args: Any, kwargs: Any) -> int:  # noqa: ANN401 - an operator's
    """Numbers in the largest result; 0 where that depends on values (``nonzero``, ``item``)."""
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    no_input = not any(isinstance(it, Tensor) for it in tree_leaves((args, kwargs)))
    if no_input or kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("meta")}
    try:
        found = func(*args, **kwargs)
    except (RuntimeError, TypeError, NotImplementedError):
        return 0
    return max((it.numel() for it in tree_leaves(found) if isinstance(it, Tensor)), default=0)


def _zip_grows(path: Path) -> str:
    with zipfile.ZipFile(path) as file:
        if any(name.endswith("/constants.pkl") for name in file.namelist()):
            what = "a TorchScript program, not weights"
            raise StorageError(
                what, where=str(path), fix="ask for its weights, .safetensors or .pth"
            )
        size = path.stat().st_size
        unpacked = sum(entry.file_size for entry in file.infolist())
        if unpacked > size:
            return f"it unpacks to {unpacked} bytes, it has {size}"
        pickles = [name for name in file.namelist() if name.endswith(".pkl")]
        return next(filter(None, (_asks(file.read(name)) for name in pickles)), "")


def _asks(pickled: bytes | mmap.mmap) -> str:
    found = _GROWS.search(pickled)
    return "" if found is None else f"it asks for {'.'.join(found[0][1:].decode().split())}"
