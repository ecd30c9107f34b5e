"""Starting a training from weights that exist: x4 from x2, or from a published file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from srtrain.errors import StorageError
from srtrain.networks.loading import StateDict, community_generator, read_state
from srtrain.networks.recognition import looks_like
from srtrain.networks.storage import is_own_checkpoint, load_tensors, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from srtrain.networks.discriminator import Discriminator
    from srtrain.networks.generator import Generator
    from srtrain.networks.recognition import Options
    from srtrain.networks.spec import Spec

DISCRIMINATOR = "discriminator.net."  # in a training state
_SHOWN = 5


@dataclass(frozen=True)
class Transfer:
    """What of a file went into a generator, and the rest by kind (tensor names)."""

    copied: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_shape: tuple[str, ...]
    led: tuple[str, ...] = ()  # their leading rows were copied: the image of a head's maps

    @property
    def total(self) -> int:
        """Number of the generator's tensors."""
        return len(self.copied) + len(self.led) + len(self.missing) + len(self.other_shape)

    @property
    def complete(self) -> bool:
        """Whether both sides agree in every name and shape."""
        return not (self.missing or self.unexpected or self.other_shape or self.led)

    def __str__(self) -> str:
        """One line: how many were copied, and the first five of each kind of the rest."""
        kinds = (
            ("in their leading rows, for the head's image", self.led),
            ("missing in the file", self.missing),
            ("unknown to the generator", self.unexpected),
            ("of another shape", self.other_shape),
        )
        rest = [f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds if names]
        return "; ".join([f"{len(self.copied)} of {self.total} tensors copied", *rest])


def init_from(
    generator: Generator, path: Path, *, partial: bool, options: Options | None = None
) -> Transfer:
    """Copy every tensor of ``path`` whose name and shape the generator has, in place.

    ``path`` is anything that ``load_generator`` takes, and any other file of named tensors. Names
    are compared bare, then, if some do not match, as spandrel writes them (published RRDB files
    come in two spellings). Where the generator has a head of K maps and the file's network has
    none, the last layer's rows are K times as many: the leading ones, which make the image, are
    copied.

    Raises: StorageError, leaving the generator as it was, if less than half of its tensors match,
    or if anything does not match and ``partial`` is false; of ``options``, it names what would fit.
    """
    own = generator.net.state_dict()
    state = read_state(path)
    maps = 1 if generator.head is None else generator.head.num_maps
    found = _compare(own, state, maps)
    if not found.complete:
        respelt = _as_spandrel_writes(state, path)
        state, found = max(
            ((state, found), (respelt, _compare(own, respelt, maps))),
            key=lambda it: len(it[1].copied),
        )
    _refuse(found, path, partial=partial, options=options)
    with torch.no_grad():
        for name in found.copied:
            own[name].copy_(state[name])
        for name in found.led:
            own[name][: len(state[name])].copy_(state[name])
    return found


def _refuse(found: Transfer, path: Path, *, partial: bool, options: Options | None) -> None:
    """Nothing, if the file fits well enough.

    Raises: StorageError with what does not fit, and what would.
    """
    if 2 * len(found.copied) < found.total:
        what = "less than half of the generator is in the file"
        fix = "choose the generator and the parameters that the file was trained with"
    elif not (found.complete or partial):
        what = "the file fits the generator only in part"
        fix = "init_from.partial=true trains the rest from its fresh weights"
    else:
        return
    known = looks_like(path, options) if options else ""
    raise StorageError(
        f"{what}: {found}",
        where=f"init_from={path}",
        fix=f"{fix}; {known}" if known else fix,
    )


def discriminator_from(discriminator: Discriminator, path: Path) -> str:
    """Take over the discriminator of an own checkpoint, if it is the same network; says what was.

    Community files hold generators, and own ones may hold weights alone: the adversary then starts
    afresh, as it does against another.
    """
    content = load_tensors(resolve(path))
    spec = content.get("discriminator") if is_own_checkpoint(content) else None
    if spec is None:
        return "the discriminator starts afresh: the file has none"
    if spec != discriminator.spec:
        other = _differences(spec, discriminator.spec)
        return f"the discriminator starts afresh: the file's is {other}"
    saved = (content.get("train_state") or {}).get("state_dict", {})
    state = {
        name.removeprefix(DISCRIMINATOR): value
        for name, value in saved.items()
        if name.startswith(DISCRIMINATOR)
    }
    if not state:
        return "the discriminator starts afresh: the file holds the generator's weights alone"
    discriminator.net.load_state_dict(state)
    discriminator.trained.fill_(1)
    return f"the discriminator goes on: {len(state)} tensors copied"


def _differences(spec: Spec, own: Spec) -> str:
    """The class of ``spec`` with the arguments that ``own`` has otherwise, on one line."""
    name, chosen = spec["_target_"].rpartition(".")[2], own["_target_"].rpartition(".")[2]
    given, ours = spec["kwargs"], own["kwargs"]
    if spec["_target_"] != own["_target_"]:
        return f"{name}, not {chosen}"
    names = [key for key in {**given, **ours} if given.get(key) != ours.get(key)]
    theirs = ", ".join(f"{key}={given.get(key)}" for key in names)
    return f"{name} with {theirs}, not {', '.join(str(ours.get(key)) for key in names)}"


def _compare(own: StateDict, state: StateDict, maps: int) -> Transfer:
    both = [name for name in own if name in state]
    same = [name for name in both if own[name].shape == state[name].shape]
    led = [name for name in both if maps > 1 and _is_led(own[name], state[name], maps)]
    return Transfer(
        copied=tuple(same),
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        other_shape=tuple(name for name in both if name not in {*same, *led}),
        led=tuple(led),
    )


def _is_led(own: Tensor, other: Tensor, maps: int) -> bool:
    """Whether the rows of ``other`` are those of the first of as many ``maps`` in ``own``."""
    if not own.ndim or not other.ndim:
        return False
    return own.shape == (maps * len(other), *other.shape[1:])


def _as_spandrel_writes(state: StateDict, path: Path) -> StateDict:
    try:
        return community_generator(state, path).net.state_dict()
    except StorageError:
        return {}


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
