"""The gallery's material: pictures as they are, to the pixel, in a page of bounded size."""

from __future__ import annotations

import io
import json
import math
import re
from base64 import b64encode
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from srtrain.evaluation.report.markup import MINUS
from srtrain.evaluation.shown import cropped, telling
from srtrain.evaluation.titles import title

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from srtrain.evaluation.results import Results, Values
    from srtrain.evaluation.shown import Box, Shown
    from srtrain.images.picture import Pixels

A_SET = 12
"""Pictures of a data set at most."""

MOST = 20_000_000
"""Bytes of all pictures together, as they stand in the page."""

SIDES = (1024, 768, 640, 512, 384, 320, 256, 224, 192, 160, 128)
"""Pixels a side at most; the first with which all of them fit into ``MOST``."""

TILE = 68
"""Pixels a side of the part that tiles show; a tile is twice as large."""

PIECE = 128
BUSY = 1.25  # where models differ most is more to be told than in the middle


def selected(shown: Sequence[Shown]) -> list[Shown]:
    """The first ``A_SET`` of each data set."""
    counted: Counter[str] = Counter()
    kept = []
    for one in shown:
        counted[one.data] += 1
        if counted[one.data] <= A_SET:
            kept.append(one)
    return kept


def gallery(shown: Sequence[Shown], *, most: int | None = None) -> list[dict[str, Any]]:
    """What the page's viewer needs of each picture: size, words, PNG of LR, each model and HR.

    All are cut to one largest side if they would not fit into ``most`` bytes (``MOST``); if the
    smallest is too large still, the last are left out.
    """
    most = MOST if most is None else most
    kept = selected(shown)
    layers = [layer for one in kept for layer in _layers(one)]
    for side in SIDES[:-1]:
        if sum(layer.expected(side) for layer in layers) <= most:
            made, whole = _encoded(kept, side, most)
            if whole:
                return made
    return _encoded(kept, SIDES[-1], most)[0]


class _Layer(NamedTuple):
    """How large a picture is likely to become: to encode all of them in vain takes seconds."""

    height: int
    width: int
    shrunk: float  # how much smaller than HR
    density: float  # bytes of a pixel, by a piece from the middle

    def expected(self, side: int) -> float:
        cut = side / self.shrunk
        return self.density * min(self.height, cut) * min(self.width, cut)


def _layers(shown: Shown) -> Iterator[_Layer]:
    made = (*shown.sr.values(), *shown.extra.values())
    for image in (shown.hr, *made, *(() if shown.lr is None else (shown.lr,))):
        height, width = image.shape[:2]
        top, left = max(0, height - PIECE) // 2, max(0, width - PIECE) // 2
        piece = image[top : top + PIECE, left : left + PIECE]
        density = len(png(piece)) / (piece.shape[0] * piece.shape[1])
        busy = 1 if height <= PIECE and width <= PIECE else BUSY
        yield _Layer(height, width, shown.hr.shape[1] / width, busy * density)


def _encoded(shown: Sequence[Shown], side: int, most: int) -> tuple[list[dict[str, Any]], bool]:
    made: list[dict[str, Any]] = []
    size = 0
    for one in shown:
        part, box = cropped(one, side)
        layers = {"lr": [] if part.lr is None else [png(part.lr)], "hr": [png(part.hr)]}
        sr = {name: png(image) for name, image in part.sr.items()}
        extra = {name: png(image) for name, image in part.extra.items()}
        size += sum(map(len, [*layers["lr"], *layers["hr"], *sr.values(), *extra.values()]))
        if size > most:
            return made, False
        about = {"data": one.data, "name": one.name, "why": one.why, "note": _note(one, box)}
        size_of = {"size": [box.width, box.height], "crop": _crop(part)}
        made.append({**about, **size_of, **layers, "sr": sr, "extra": extra})
    return made, True


def _crop(part: Shown) -> list[int]:
    """Left, top, width, height of what tiles show: the same part of every layer."""
    box = telling(part, TILE, baseline="bicubic")
    return [box.left, box.top, box.width, box.height]


def _note(shown: Shown, box: Box) -> str:
    height, width = shown.hr.shape[:2]
    if (box.height, box.width) == (height, width):
        return f"{width} × {height}"
    differ = "models differ most" if len(shown.sr) > 1 else "the error is largest"
    where = f"from ({box.left}, {box.top}), where {differ}"
    return f"{box.width} × {box.height} of {width} × {height}, {where}; values of the whole image"


def png(image: Pixels) -> str:
    """A data URI. PNG, never JPEG: what is compared are these very pixels."""
    red, green, blue = (image[..., channel] for channel in range(3))
    gray = (red == green).all() and (red == blue).all()
    buffer = io.BytesIO()
    whole = Image.fromarray(red if gray else image)
    whole.save(buffer, "PNG", compress_level=1)  # 2.7 times as fast, 13 % larger
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()


def key_of(shown: Sequence[Shown], name: str) -> str:
    """What the page's viewer calls a layer: HR, LR, a model's image, or an extra one."""
    if name in ("HR", "LR"):
        return name.lower()
    return f"{'sr' if any(name in one.sr for one in shown) else 'extra'} {name}"


def about_metric(name: str) -> dict[str, Any]:
    """How the page writes and ranks it; ``digits`` null: as short as can be."""
    said = title(name)
    digits = re.search(r"\.(\d+)f", said.form)
    return {
        "key": name,
        "name": said.name,
        "better": said.better,
        "about": said.about,
        "digits": int(digits[1]) if digits else None,
        "signed": "+" in said.form,
    }


def values_of_images(results: Results | None, shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """Each image's values by model; in the order of the results, then of pictures."""
    found: dict[tuple[str, str], dict[str, Values]] = {}
    for model in results.models if results else []:
        for data, of in model.data.items():
            for image, row in of.images.items():
                found.setdefault((data, image), {})[model.name] = row
    for one in shown:
        for name, row in one.values.items():
            found.setdefault((one.data, one.name), {}).setdefault(name, row)
    return [
        {"data": data, "name": name, "values": {m: _numbers(row) for m, row in by_model.items()}}
        for (data, name), by_model in found.items()
    ]


def _numbers(row: Values) -> dict[str, float | str | None]:
    """JSON has no infinity and no NaN."""
    return {name: _json_number(value) for name, value in row.items()}


def _json_number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "∞" if value > 0 else f"{MINUS}∞"


def as_script(content: Mapping[str, Any]) -> str:
    """JSON that no HTML parser can leave early, whatever the names in it are."""
    words = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return words.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
