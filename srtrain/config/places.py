"""Files and folders that the configuration names and that do not exist."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.config.nearest import did_you_mean, nearest
from srtrain.errors import ConfigError, DataError, SrtrainError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from srtrain.config.facts import Facts

# Data whose `train` names folders that must be there; others download or synthesise theirs.
READS_FOLDERS = frozenset({"srtrain.data.build.folder_data", "srtrain.data.build.paired_data"})
FEATURES = ("embedded", "imagenet")
RESUME = ("auto", "never")


def places(facts: Facts) -> Iterator[SrtrainError]:
    """Data folders, weights and run folders that are not there."""
    yield from _data(facts)
    yield from _features(facts)
    yield from _run_to_resume(facts)
    for key in ("init_from.path", "mse_checkpoint", "metrics.lpips.features"):
        path = facts.get(key)
        if key == "mse_checkpoint" and (facts.resumed or _goes_on(facts)):
            continue  # the run's own checkpoints hold it
        if isinstance(path, str) and not Path(path).exists():
            yield StorageError(f"no such file: {path}", where=key, fix="correct the path")


def _goes_on(facts: Facts) -> bool:
    run = facts.get("run_dir")
    begun = isinstance(run, str) and (Path(run) / "checkpoints" / "last").exists()
    return begun and facts.get("resume") != "never"


def _data(facts: Facts) -> Iterator[SrtrainError]:
    keys = ["data.val"]
    if facts.get("data._target_") in READS_FOLDERS:
        keys.insert(0, "data.train")
    for key in keys:
        for path in _paths(facts.get(key)):
            if path != "???" and not Path(path).expanduser().exists():
                yield DataError(f"no such folder: {path}", where=key, fix="correct the path")


def _paths(place: object) -> Iterator[str]:
    """All paths in a folder, a list of folders, ``{path, repeat}``, ``{hr, lr}`` or NAME → DIR."""
    if isinstance(place, str):
        yield place
    elif isinstance(place, list):
        for item in place:
            yield from _paths(item)
    elif isinstance(place, Mapping):
        for value in place.values():
            yield from _paths(value)


def _features(facts: Facts) -> Iterator[SrtrainError]:
    for name in facts.weights():
        key = f"loss.terms.{name}.features"
        path = facts.get(key)
        if isinstance(path, str) and path not in FEATURES and not Path(path).exists():
            guess = nearest(path, FEATURES)
            fix = did_you_mean(guess, "embedded | imagenet | the path of a weights file")
            yield StorageError(f"no such file: {path}", where=key, fix=fix)


def _run_to_resume(facts: Facts) -> Iterator[SrtrainError]:
    resume = facts.get("resume")
    if not isinstance(resume, str) or resume in RESUME:
        return
    folder = Path(resume)
    if not folder.is_dir():
        guess = nearest(resume, RESUME)
        fix = did_you_mean(f"resume={guess}" if guess else None, "auto | never | a run folder")
        yield ConfigError(f"no such run folder: {resume}", where="resume", fix=fix)
    elif not (folder / "config.yaml").exists() and not any(folder.glob("checkpoints/step-*.ckpt")):
        fix = "run_dir=DIR starts a run in a folder"
        yield ConfigError(f"there is no run to continue in {resume}", where="resume", fix=fix)
