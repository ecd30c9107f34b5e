"""A checkpoint leaves the step thread as a copy, and is written beside the training."""

from __future__ import annotations

from collections import OrderedDict
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable


class Writer:
    """One job at a time in a thread of its own; what it raised comes out of the next call.

    The thread is no daemon: a process that ends by itself waits for it.
    """

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Begin ``job``, once the one before is done."""
        self.flush()
        self._thread = Thread(target=self._run, args=(job,), name="writer")
        self._thread.start()

    def check(self) -> None:
        """Raise what the job raised if it is done, without waiting for it."""
        if self._thread is not None and not self._thread.is_alive():
            self.flush()

    def flush(self) -> None:
        """Wait for the job; raise what it raised, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # the step thread is told
            self._error = error


def snapshot(content: Any) -> Any:
    """A copy of nested containers, tensors on the CPU, that training does not change any more.

    Tensors that share their memory share it in the copy. Those of a GPU come over together: the
    host waits for the device once.
    """
    copies: dict[tuple[Any, ...], Tensor] = {}
    copied = _copied(content, copies)
    if any(key[0].type == "cuda" for key in copies):
        torch.cuda.current_stream().synchronize()
    return copied


def _copied(content: Any, copies: dict[tuple[Any, ...], Tensor]) -> Any:
    if isinstance(content, Tensor):
        return _copied_tensor(content, copies)
    if isinstance(content, OrderedDict):  # a state_dict: versions of modules are in its attributes
        ordered = OrderedDict((key, _copied(value, copies)) for key, value in content.items())
        vars(ordered).update(vars(content))
        return ordered
    if isinstance(content, dict):
        return {key: _copied(value, copies) for key, value in content.items()}
    if isinstance(content, list | tuple):
        items = [_copied(value, copies) for value in content]
        return items if isinstance(content, list) else tuple(items)
    return content


def _copied_tensor(tensor: Tensor, copies: dict[tuple[Any, ...], Tensor]) -> Tensor:
    place = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
    key = (tensor.device, *place)
    if key not in copies:
        copies[key] = tensor.detach().to("cpu", non_blocking=True, copy=True)
    return copies[key]
