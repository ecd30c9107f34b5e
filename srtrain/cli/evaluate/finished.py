"""Finished SR images: which file belongs to which HR image, known before anything is measured."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from srtrain.cli.evaluate.sets import some
from srtrain.errors import DataError
from srtrain.images import image_size, list_images, shown

if TYPE_CHECKING:
    from pathlib import Path

    from srtrain.cli.evaluate.sets import DataSet, Item

_ROLE = re.compile(r"[ ._-](HR|GT)$")
_SUFFIX = re.compile(r"([ ._-].*)?|x\d.*", re.IGNORECASE)


def match_finished(folder: Path, data: DataSet, *, scale: int) -> dict[str, Path]:
    """HR name → its SR file in ``folder``, or in ``folder``/NAME where that is there.

    An SR file is called as its HR image, with any suffix: ``baby``, ``babyx4``, ``baby_x4``,
    ``baby_SR``, ``baby_x4_mine``; it belongs to the longest HR name that it begins with.

    Raises: DataError naming HR images without an SR image or with several, and images of a size
        that is not that of HR cut to a multiple of ``scale``.
    """
    own = folder / data.name
    root = own if own.is_dir() else folder
    wanted = {_ROLE.sub("", item.name): item for item in data.items}
    found: dict[str, list[Path]] = defaultdict(list)
    for path in list_images(root):
        stem = path.relative_to(root).with_suffix("").as_posix()
        owners = [stem] if stem in wanted else [name for name in wanted if _belongs(stem, name)]
        if owners:
            found[wanted[max(owners, key=len)].name].append(path)
    _refuse_incomplete(data, found, root)
    files = {name: paths[0] for name, paths in found.items()}
    for item in data.items:
        _refuse_wrong_size(item, files[item.name], scale)
    return files


def _belongs(stem: str, name: str) -> bool:
    return stem.startswith(name) and _SUFFIX.fullmatch(stem[len(name) :]) is not None


def _refuse_incomplete(data: DataSet, found: dict[str, list[Path]], root: Path) -> None:
    missing = [item.name for item in data.items if item.name not in found]
    several = [
        f"{name}: {' and '.join(path.name for path in paths)}"
        for name, paths in found.items()
        if len(paths) > 1
    ]
    said = [f"no SR image of {some(missing)} ({len(missing)} of {len(data.items)})"]
    said = said if missing else []
    said += [f"several SR images of {some(several)}"] if several else []
    if said:
        raise DataError(
            f"{'; '.join(said)} of the set {data.name}",
            where=shown(root),
            fix="one image for each HR image, called as it is (or with a suffix, as baby_x4.png)",
        )


def _refuse_wrong_size(item: Item, path: Path, scale: int) -> None:
    size = image_size(path)
    if size != item.size:
        raise DataError(
            f"the SR image is {size[1]}x{size[0]}, HR cut to a multiple of {scale} is"
            f" {item.size[1]}x{item.size[0]}",
            where=shown(path),
            fix="give images made of LR of this scale",
        )
