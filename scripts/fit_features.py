"""Fit the embedded features ``first5/procedural``: python scripts/fit_features.py [-o FILE].

Stacked spherical k-means: each of VGG-19's first five convolutions is fitted in turn to whitened
3x3 patches of what the layers below it make of procedural dead leaves. No photo, no label, no
back-propagation. Deterministic on one machine; about a minute on one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save

from srtrain.data.leaves import REVISION, dead_leaves
from srtrain.files import sha256_of, write_atomic
from srtrain.losses.features import (
    EMBEDDED_CONVS,
    EMBEDDED_FILE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    VGG19,
    layers_up_to,
)
from srtrain.losses.spherical_kmeans import fit_convolution, random_patches

SEED = 2
PICTURES = 400
SIZE = 96
PATCHES = 40_000
ITERATIONS = 12
EPSILON = 0.1
CALIBRATION = 4


def main() -> None:
    """Fit, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, default=EMBEDDED_FILE)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    state = fit()
    state["calibration"] = leaves(CALIBRATION, size=64, first=PICTURES)
    metadata = {
        "name": "first5/procedural",
        "method": "stacked spherical k-means on whitened 3x3 patches of dead leaves",
        "input": "RGB, (x - mean) / std with ImageNet's mean and std",
        "leaves": f"seed {SEED}, {PICTURES} pictures of {SIZE} px, revision {REVISION}",
        "fit": f"{PATCHES} patches, {ITERATIONS} iterations, whitening epsilon {EPSILON}",
        "license": "Apache-2.0",
    }
    write_atomic(output, save(state, metadata=metadata))
    print(f"{output}: {output.stat().st_size} bytes, sha256 {sha256_of(output)}")


@torch.no_grad()
def fit() -> dict[str, torch.Tensor]:
    """The five convolutions under torchvision's names, in float16."""
    generator = torch.Generator().manual_seed(SEED)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    x = (leaves(PICTURES, size=SIZE) / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    state = {}
    for name in layers_up_to(EMBEDDED_CONVS):
        layer = VGG19[name]
        if layer is None:
            x = F.max_pool2d(x, 2)
            continue
        start = time.process_time()
        patches = random_patches(x, count=PATCHES, generator=generator)
        weight, bias = fit_convolution(
            patches,
            outputs=layer.outputs,
            iterations=ITERATIONS,
            epsilon=EPSILON,
            generator=generator,
        )
        weight, bias = weight.half(), bias.half()
        state[f"features.{layer.index}.weight"] = weight
        state[f"features.{layer.index}.bias"] = bias
        x = torch.cat([F.conv2d(part, weight.float(), bias.float(), padding=1).relu_()
                       for part in x.split(16)])  # fmt: skip
        print(f"{name}: {tuple(weight.shape)}, {time.process_time() - start:.1f} cpu-s")
    return state


def leaves(count: int, *, size: int, first: int = 0) -> torch.Tensor:
    """``count`` dead leaves from number ``first`` on, uint8 (count, 3, size, size)."""
    pictures = [dead_leaves(first + k, size=size, seed=SEED) for k in range(count)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


if __name__ == "__main__":
    main()
