"""The model card: what whoever is handed the file must know of it, from the checkpoint itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srtrain.errors import ConfigError
from srtrain.images import shown
from srtrain.inference.export.about import mapping, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from srtrain.networks.generator import Generator

UNSTATED = "not stated: choose one before you hand this on (`--licence`)"
_FILES = "## Files"
_LICENCE = re.compile(r"^\| licence \| (.*) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """Where a model comes from; ``about`` is what its checkpoint says, empty of others' files."""

    file: str
    sha256: str
    about: Mapping[str, Any]


def card(model: str, generator: Generator, source: Source, *, licence: str, file: str) -> str:
    """Markdown of the file named ``model``.

    ``file`` is its last line, to which another export may add (``added``).
    """
    parts = [_front(licence), f"# {Path(model).stem}", _summary(generator, source, licence)]
    measured = _measured(source.about)
    if measured:
        parts.append(measured)
    parts += [f"## Use\n\n{use(model, generator.scale)}", f"{_FILES}\n\n{file}"]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def earlier(path: Path, source: Source, *, overwrite: bool) -> str:
    """The card at ``path``, to which another file of that model may be ``added``; empty if none.

    ``overwrite``: empty too if it is about another model; what people wrote in is never replaced.

    Raises: ConfigError if it is about another model, or none.
    """
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    if source.sha256 in text and _FILES in text:
        return text
    if overwrite:
        return ""
    raise ConfigError(
        "this exists and is no card of this model", where=shown(path), fix="--overwrite replaces it"
    )


def added(existing: str, file: str, *, use: str = "") -> str:
    """The card with one more line below its files, or with that file's line replaced.

    ``use``: how to use the file, put before the files if it is new among them.
    """
    named, lines = file.partition(", ")[0] + ", ", existing.rstrip().splitlines()
    kept = [line for line in lines if not line.startswith(named)]
    if use and kept == lines and _FILES in kept:
        place = kept.index(_FILES)
        kept[place:place] = [*use.splitlines(), ""]
    last = max(n for n, line in enumerate(kept) if line == _FILES or line.startswith("- `"))
    blank = [""] if kept[last] == _FILES else []
    return "\n".join([*kept[: last + 1], *blank, file, *kept[last + 1 :]]) + "\n"


def licence_of(existing: str) -> str:
    """What a card says; empty where it states none."""
    found = _LICENCE.search(existing)
    said = "" if found is None else found[1].strip().replace("\\|", "|")
    return "" if said.startswith(UNSTATED[:10]) else said


def licensed(existing: str, licence: str, *, overwrite: bool) -> str:
    """The card with ``licence``, where it states none, or if it may be replaced.

    Raises: ConfigError if it states another one, or has no place for it.
    """
    stated = licence_of(existing)
    if not licence or licence == stated:
        return existing
    if (stated and not overwrite) or not _LICENCE.search(existing):
        raise ConfigError(
            f"the card beside it says {stated or 'nothing'} of the licence",
            where=f"--licence {licence}",
            fix="give the same, or write it into the card" + ", or --overwrite" * bool(stated),
        )
    text = _LICENCE.sub(lambda _: _row("licence", licence), existing, count=1)
    front, rest = (
        re.split(r"(?m)^---$", text, maxsplit=2)[1:] if text.startswith("---") else ("", "")
    )
    if not rest:
        return text
    others = [line for line in front.splitlines() if line and not line.startswith("license")]
    return "\n".join(["---", *others, *_hub_licence(licence), "---"]) + rest


def words(about: Mapping[str, Any]) -> str:
    """``experiment mse, 300 steps``; empty where nothing is known."""
    said = [
        f"experiment {about['experiment']}" if about.get("experiment") else "",
        f"{about['step']:,} steps" if isinstance(about.get("step"), int) else "",
    ]
    return ", ".join(filter(None, said))


def _front(licence: str) -> str:
    """What model hubs read."""
    lines = ["---", "library_name: srtrain", "pipeline_tag: image-to-image"]
    lines += ["tags: [super-resolution]", *_hub_licence(licence)]
    return "\n".join([*lines, "---"])


def _hub_licence(licence: str) -> list[str]:
    if not licence or re.fullmatch(r"[a-z0-9.\-]+", licence):
        return [f"license: {licence}"] if licence else []
    return ["license: other", f"license_name: {json.dumps(licence, ensure_ascii=False)}"]


def _summary(generator: Generator, source: Source, licence: str) -> str:
    target, kwargs = generator.spec["_target_"], plain(generator.spec["kwargs"])
    arguments = ", ".join(f"{key}={value}" for key, value in kwargs.items())
    count = sum(parameter.numel() for parameter in generator.net.parameters())
    rows = {
        "task": f"super-resolution ×{generator.scale}: RGB in [0, 1], LR (h, w) → SR"
        f" ({generator.scale}h, {generator.scale}w)",
        "architecture": f"{generator.architecture}, {count:,} parameters (`{target}({arguments})`)",
        **_training(source.about),
        "licence": licence or UNSTATED,
        "made from": f"`{source.file}`, sha256 `{source.sha256}`",
    }
    return "| | |\n|---|---|\n" + "\n".join(_row(k, v) for k, v in rows.items())


def _training(about: Mapping[str, Any]) -> dict[str, str]:
    """How it was trained, of an own checkpoint."""
    if not about:
        return {"training": "unknown: not a checkpoint of srtrain"}
    config, reached = mapping(about.get("config")), mapping(about.get("reached"))
    data, loss = mapping(config.get("data")), mapping(reached.get("loss"))
    rows = {"training": f"{words(about)}, by srtrain {about.get('version', '?')}"}
    if begin := _start(mapping(config.get("init_from")).get("path")):
        rows["started from"] = f"{begin}: its steps, data and licence are not told here"
    if data:
        digest = str(mapping(about.get("data")).get("train", ""))[:16]
        crops = f"batches of {data.get('batch_size')} patches of {data.get('hr_patch_size')} pixels"
        rows["training data"] = f"{_names(data.get('train'))} (digest {digest}); {crops}"
    if weights := mapping(loss.get("weights")):
        terms = [f"{_number(weight)} {name}" for name, weight in weights.items()]
        notes = [f"{name}: {said}" for name, said in mapping(loss.get("features")).items()]
        rows["loss"] = " + ".join(terms) + (f" (features {'; '.join(notes)})" if notes else "")
    for group in ("degradation", "discriminator", "optimizer", "scheduler"):
        if node := mapping(config.get(group)):
            rows[group] = _node(node)
    if head := mapping(about.get("head")):
        rows["head"] = f"{_node(head)}: this file holds its image alone, without bands"
    if isinstance(seconds := reached.get("seconds"), int | float):
        rows["cost"] = f"{seconds:,.0f} s of training"
    return rows


def _measured(about: Mapping[str, Any]) -> str:
    """A table for each validation set: bicubic and the model."""
    reached = mapping(about.get("reached"))
    sets = {data: mapping(row) for data, row in mapping(reached.get("val")).items()}
    if not sets:
        return ""
    lines = ["## Measured", ""]
    metrics = list(dict.fromkeys(name for row in sets.values() for name in row))
    lines += [f"| set | image | {' | '.join(metrics)} |", "|---" * (len(metrics) + 2) + "|"]
    for data, row in sets.items():
        bicubic = mapping(mapping(reached.get("bicubic")).get(data))
        for label, values in (("bicubic", bicubic), ("SR", row)):
            cells = [_number(values.get(name)) for name in metrics]
            lines.append(f"| {data} | {label} | {' | '.join(cells)} |")
    step = reached.get("val_step")
    if step not in (None, about.get("step")):
        lines += ["", f"Measured at step {step}; the weights are of step {about.get('step')}."]
    protocol = mapping(about.get("protocol"))
    said = [f"- {key}: {value}" for key, value in protocol.items() if key != "version"]
    return "\n".join([*lines, "", "Protocol:", "", *said])


def use(model: str, scale: int) -> str:
    """Python in which the file named ``model`` makes an image larger."""
    name = json.dumps(model, ensure_ascii=False)
    if not model.endswith(".onnx"):
        return f"""```python
from srtrain import load_model
load_model({name}).upscale(image)  # PIL image, numpy array or tensor, ×{scale}
```"""
    return f"""```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession({name})
lr = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255  # (1, 3, h, w), RGB
(sr,) = session.run(["sr"], {{"lr": lr}})  # (1, 3, {scale}h, {scale}w) in [0, 1]
```"""


def _start(path: object) -> str:
    """The file or run whose weights it began with; a checkpoint's name says its run's, too."""
    if not isinstance(path, str) or not path:
        return ""
    parts = Path(path).parts
    kept = parts[-3:] if "checkpoints" in parts[-2:-1] else parts[-1:]
    return f"`{'/'.join(kept) or path}`"


def _names(value: object) -> str:
    """Folders by their last name: the rest of a path is nobody's business."""
    if isinstance(value, str):
        return f"`{Path(value).name}`"
    if isinstance(value, list | tuple):
        return ", ".join(map(_names, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_names(item)}" for key, item in value.items())
    return str(value)


def _node(node: Mapping[str, Any]) -> str:
    """``Adam(lr=0.0002)`` of a configuration node or a spec."""
    target = str(node.get("_target_", "")).rpartition(".")[2]
    given = node.get("kwargs", {k: v for k, v in node.items() if not k.startswith("_")})
    words = (f"{key}={_plain(value)}" for key, value in mapping(given).items())
    return f"{target}({', '.join(words)})"


def _plain(value: object) -> object:
    return Path(value).name if isinstance(value, str) else value


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _row(label: str, text: str) -> str:
    return f"| {label} | {_cell(text)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
