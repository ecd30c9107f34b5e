"""Reports for the tests: small pictures, figures that are known."""

from __future__ import annotations

import numpy as np

from srtrain.evaluation.comparison import compare
from srtrain.evaluation.report.page import Report
from srtrain.evaluation.results import ModelResult, Results, SetResult
from srtrain.evaluation.shown import Shown

HOSTILE = [
    "<script>document.title='hacked'</script>",
    '"><img src=x onerror="document.title=\'hacked\'">',
    "</script><script>document.title='hacked'</script>",
    "&lt;b&gt; <!-- $title ${title} %s {name}",
    "a'b`c\\u003c\N{RIGHT-TO-LEFT OVERRIDE}",
]
FIGURES = {  # of image i
    "bicubic": lambda i: {"psnr_y": 25.0 + i, "lpips_squeeze": 0.3, "bias": 0.0001},
    "network": lambda i: {"psnr_y": 27.0 + i, "lpips_squeeze": 0.2, "bias": -0.003 + i % 2 * 1e-12},
}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def shown(name: str, *, height: int = 32, width: int = 48, gray: bool = False) -> Shown:
    """LR of noise; "bicubic" all 40, "network" all 80 and HR all 120, with noise of 8 levels."""
    seed = sum(name.encode())
    small = noise(height // 4, width // 4, seed)
    levels = {"bicubic": 40, "network": 80, "hr": 120}
    images = {
        of: (level + noise(height, width, seed + i) % 8).astype(np.uint8)
        for i, (of, level) in enumerate(levels.items())
    }
    if gray:
        small, images = (
            small[..., :1].repeat(3, 2),
            {n: v[..., :1].repeat(3, 2) for n, v in images.items()},
        )
    hr = images.pop("hr")
    return Shown("set", name, "worst", small, hr, images, {})


def example(model: str = "network", *, count: int = 8, pictures: int = 3) -> Report:
    """Two models on 8 images, the first three with pictures; ``model``: the better one's name."""

    def result(name: str, of: str) -> ModelResult:
        images = {f"image{i}": FIGURES[of](i) for i in range(count)}
        means = {m: float(np.mean([row[m] for row in images.values()])) for m in images["image0"]}
        return ModelResult(name, "0" * 64, {"set": SetResult(means, images)})

    results = Results([result("bicubic", "bicubic"), result(model, "network")], {"version": 1})
    gallery = []
    for i in range(pictures):
        one = shown(f"image{i}")
        sr = {"bicubic": one.sr["bicubic"], model: one.sr["network"]}
        gallery.append(Shown(one.data, one.name, one.why, one.lr, one.hr, sr, {}))
    return Report(
        title=f"bicubic and {model}",
        results=results,
        differences=compare(results),
        gallery=gallery,
        configuration={model: f"name: {model}\n"},
        environment={"date": "2026-01-02", "command": f"srtrain evaluate {model}"},
        notes=[f"About {model}."],
    )
