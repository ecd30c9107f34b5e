"""What ``conf/data`` names: from plain values to an ``SRData`` with its sources."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, Unpack

from srtrain.data.cache import OnBad
from srtrain.data.collection import Source
from srtrain.data.datamodule import SRData
from srtrain.data.div2k import Div2k
from srtrain.data.resident import Residence
from srtrain.data.sources import VAL_PHOTOS, Bundled, Concat, Folder, Paired, Synthetic
from srtrain.errors import ConfigError

Places = str | Sequence[str | Mapping[str, object]] | Mapping[str, object]


class Sizes(TypedDict):
    """What every kind of data is told about the run."""

    scale: int
    hr_patch_size: int
    batch_size: int
    num_workers: int
    seed: int
    cache_dir: Path | None
    accumulate: int
    min_val_size: NotRequired[int]
    residence: NotRequired[Residence]


def demo_data(*, train: Mapping[str, object], val: Places | None, **sizes: Unpack[Sizes]) -> SRData:
    """Synthetic leaves and some bundled photos; validates on five other photos.

    Raises: ConfigError for a photo that is not bundled. One that is also validated on is a
        DataError of `SRData.prepare_data`.
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
    """Validation sets by name: nothing → the bundled photos, a DIR, a list of DIRs, or NAME → DIR.

    A DIR may be ``{hr: DIR, lr: DIR}``; of a folder alone the LR is made like the training's. A
    set without NAME is called like its folder, a list's with as many parents as tell them apart.

    Raises: ConfigError if a list names one folder twice, or for other maps.
    """
    if val is None:
        return {"photos": Bundled(VAL_PHOTOS)}
    if isinstance(val, Mapping) and set(val) != {"hr", "lr"}:
        return {str(name): _val_source(place, scale=scale) for name, place in val.items()}
    places = [val] if isinstance(val, str | Mapping) else list(val)
    sources = [_val_source(place, scale=scale) for place in places]
    return dict(zip(_set_names([_hr_folder(place) for place in places]), sources, strict=True))


def _val_source(place: object, *, scale: int) -> Source:
    if not isinstance(place, Mapping):
        return Folder(str(place))
    if set(place) != {"hr", "lr"}:
        raise ConfigError(f"{dict(place)} must be {{hr: DIR, lr: DIR}}", where="data.val")
    return Paired(str(place["hr"]), str(place["lr"]), scale=scale)


def _hr_folder(place: str | Mapping[str, object]) -> str:
    return str(place["hr"]) if isinstance(place, Mapping) else place


def _set_names(folders: Sequence[str]) -> list[str]:
    parts = [_parts(folder) for folder in folders]
    lengths = [1] * len(parts)
    while True:
        names = ["_".join(own[-length:]) for own, length in zip(parts, lengths, strict=True)]
        alike = [i for i, name in enumerate(names) if names.count(name) > 1]
        if not alike:
            return names
        if all(lengths[i] >= len(parts[i]) for i in alike):
            raise ConfigError(
                f"{', '.join(folders[i] for i in alike)} would be sets of one name",
                where="data.val",
                fix="name them: data.val={NAME: DIR, …}",
            )
        for i in alike:
            lengths[i] += 1


def _parts(folder: str) -> tuple[str, ...]:
    whole = Path(os.path.normpath(Path(folder).expanduser().absolute()))  # links keep their names
    parts = whole.parts[1:] or ("val",)
    return parts[:-1] if parts[-1].lower() in {"hr", "gt"} and len(parts) > 1 else parts
