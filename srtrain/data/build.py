"""What ``conf/data`` names: from plain values to an ``SRData`` with its sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from srtrain.data.cache import OnBad
from srtrain.data.collection import Source
from srtrain.data.datamodule import SRData
from srtrain.data.div2k import Div2k
from srtrain.data.sources import VAL_PHOTOS, Bundled, Concat, Folder, Paired, Synthetic

Places = str | Sequence[str] | Mapping[str, object]


class Sizes(TypedDict):
    """What every kind of data is told about the run."""

    scale: int
    hr_patch_size: int
    batch_size: int
    num_workers: int
    seed: int
    cache_dir: Path | None
    accumulate: int


def demo_data(*, train: Mapping[str, object], val: Places | None, **sizes: Unpack[Sizes]) -> SRData:
    """Synthetic leaves and some bundled photos; validates on five other photos.

    Raises: ConfigError if a training photo is one of the validation photos.
    """
    photos = [str(name) for name in train["photos"]]  # type: ignore[attr-defined]
    leaves = Synthetic(count=int(str(train["leaves"])), size=int(str(train["leaf_size"])), seed=0)
    source = Concat(leaves, Bundled(photos)) if photos else leaves
    return SRData(train=source, val=val_sources(val, scale=sizes["scale"]), **sizes)


def folder_data(
    *, train: Places, val: Places | None, on_bad: OnBad, **sizes: Unpack[Sizes]
) -> SRData:
    """HR photos of one or more folders; LR is made on the device."""
    source = Folder(train)
    val_sets = val_sources(val, scale=sizes["scale"])
    return SRData(train=source, val=val_sets, on_bad=on_bad, **sizes)


def paired_data(
    *,
    train: Mapping[str, str],
    val: Places | None,
    on_bad: OnBad,
    lr_is_bicubic: bool,
    **sizes: Unpack[Sizes],
) -> SRData:
    """HR and LR folders, matched by name."""
    source = Paired(train["hr"], train["lr"], scale=sizes["scale"])
    return SRData(
        train=source,
        val=val_sources(val, scale=sizes["scale"]),
        on_bad=on_bad,
        lr_is_bicubic=lr_is_bicubic,
        **sizes,
    )


def div2k_data(*, train: str, val: Places | None, on_bad: OnBad, **sizes: Unpack[Sizes]) -> SRData:
    """DIV2K's 800 photos, downloaded on first use; validates on its 100 others."""
    val_sets: Mapping[str, Source]
    if val is None:
        val_sets = {"DIV2K": Div2k(train, split="valid")}
    else:
        val_sets = val_sources(val, scale=sizes["scale"])
    return SRData(train=Div2k(train, split="train"), val=val_sets, on_bad=on_bad, **sizes)


def val_sources(val: Places | None, *, scale: int) -> dict[str, Source]:
    """Validation sets by name: nothing → the bundled photos, a folder, or a map NAME → DIR.

    A DIR may be ``{hr: DIR, lr: DIR}``; of a folder alone the LR is made like the training's.
    """
    if val is None:
        return {"photos": Bundled(VAL_PHOTOS)}
    if isinstance(val, Mapping) and set(val) != {"hr", "lr"}:
        return {str(name): _val_source(place, scale=scale) for name, place in val.items()}
    if isinstance(val, Mapping):
        return {Path(str(val["hr"])).name or "val": _val_source(val, scale=scale)}
    places = [val] if isinstance(val, str) else list(val)
    return {_set_name(place): Folder(place) for place in places}


def _val_source(place: object, *, scale: int) -> Source:
    if isinstance(place, Mapping):
        return Paired(str(place["hr"]), str(place["lr"]), scale=scale)
    return Folder(str(place))


def _set_name(place: str) -> str:
    path = Path(place)
    return path.parent.name if path.name.lower() in {"hr", "gt"} and path.parent.name else path.name
