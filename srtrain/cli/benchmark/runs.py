"""The arms of the training suite: each a process that trains the same network on the same files."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.benchmark.child import Child
from srtrain.cli.benchmark.workload import NETWORKS, draw_mean
from srtrain.errors import ConfigError

if TYPE_CHECKING:
    import argparse

PACKAGE = Path(__file__).parent
SUB_IMAGES = "sub-images"
CHECKOUT = PACKAGE.parents[2]
NEVER = 10**9  # steps
LOG_EVERY = 100  # conf/trainer/default.yaml


@dataclass(frozen=True)
class Part:
    """How a run does without one of its parts: by words, by a switch of `driven`, or by data."""

    about: str
    words: tuple[str, ...] = ()
    switch: str = ""
    paired: bool = False


PARTS = {
    "logging": Part(
        "logger=none, nothing written", ("logger=none", f"trainer.log_every_n_steps={NEVER}")
    ),
    "bar": Part("trainer.progress=false", ("trainer.progress=false",)),
    "EMA": Part("callbacks.ema=null", ("callbacks.ema=null",)),
    "guards": Part("neither Guard nor refused steps", switch="Guard"),
    "degradation": Part("data=paired: LR is read", paired=True),
    "disk": Part("data.residence=ram", ("data.residence=ram",)),
    "data": Part("uint8 batches lie ready", switch="Loader"),
}


@dataclass(frozen=True)
class Runs:
    """Starts the arms of one network; ``folder`` holds ``pictures``, the cache, and their runs."""

    options: argparse.Namespace
    folder: Path
    network: str
    accelerator: str
    steps: int  # of a turn

    def bare(self) -> Child:
        """The limit; of a flow, that of its velocity network."""
        name = "bare_flow" if NETWORKS[self.network].flow else "bare"
        return self._child("bare", ["-m", f"srtrain.cli.benchmark.{name}", *self.words("bare")])

    def bare_with_mean(self, name: str) -> Child:
        """The same, and the images of the mean's network are made in each step."""
        module = "srtrain.cli.benchmark.bare_flow"
        return self._child(name, ["-m", module, "--mean", *self.words("bare")])

    def reference(self) -> Child:
        """The loop after BasicSR's description."""
        module = "srtrain.cli.benchmark.reference"
        pictures = self.folder / (SUB_IMAGES if self.options.peer_side else "pictures")
        return self._child("reference", ["-m", module, str(pictures), *self.words("reference")])

    def srtrain(self, name: str, part: Part | None = None, *, checkout: Path = CHECKOUT) -> Child:
        """``python -m srtrain`` of a checkout, without one of its parts."""
        part = part or Part("")
        words = [*self.words(name, paired=part.paired), *part.words]
        driven = str(PACKAGE / "driven.py")
        return self._child(name, [driven, part.switch, *words], checkout=checkout)

    def words(self, name: str, *, paired: bool = False) -> list[str]:
        """The command line that all arms share."""
        options, pictures = self.options, self.folder / "pictures"
        hr, lr = pictures / "hr", pictures / "lr"
        return [
            *network_words(self.network, self.folder, options.scale),
            "budget=paper",
            f"scale={options.scale}",
            "data=paired" if paired else "data=folder",
            f"data.train={{hr: {hr}, lr: {lr}}}" if paired else f"data.train={hr}",
            f"data.val={{one: {pictures / 'val'}}}",
            f"data.batch_size={options.batch}",
            f"data.hr_patch_size={options.hr_patch}",
            f"trainer.accelerator={self.accelerator}",
            # A line in each turn, though there be more lines than by default: none is for nothing.
            f"trainer.log_every_n_steps={min(LOG_EVERY, self.steps)}",
            f"paths.cache={self.folder / 'cache'}",
            f"run_dir={self.folder / 'runs' / f'{self.network}-{name}'}",
            *options.override,
        ]

    def _child(self, name: str, arguments: list[str], *, checkout: Path = CHECKOUT) -> Child:
        path = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
        environ = {"PYTHONPATH": path, "WANDB_MODE": "offline", "TERM": "xterm"}
        if self.options.threads:
            count = str(self.options.threads)
            environ |= {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        return Child(name, arguments, cwd=self.folder, environ=environ)


def network_words(network: str, folder: Path, scale: int) -> list[str]:
    """What says what is trained; the network that a flow starts from is made if need be."""
    asked = NETWORKS[network]
    if not asked.mean:
        return [*asked.words]
    mean = folder / "mean"
    path = next(mean.glob("*.ckpt"), None) or draw_mean(mean, scale=scale)
    return [*asked.words, f"mse_checkpoint={path}"]


def earlier(revision: str, folder: Path) -> Path:
    """The files of a commit, laid out in ``folder``.

    Raises: ConfigError if this is no checkout, or has no such commit.
    """
    try:
        found = _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        archive = _git("archive", "--format=tar", found.decode().strip())
    except FileNotFoundError:
        raise ConfigError("git is not installed", where=f"--against {revision}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigError(said[0], where=f"--against {revision}", fix="name a commit") from None
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def _git(*words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(CHECKOUT), *words], capture_output=True, check=True)
    return done.stdout
