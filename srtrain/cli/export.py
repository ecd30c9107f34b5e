"""``srtrain export CKPT --to safetensors | onnx``: a trained network as other programs open it."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from srtrain.cli.arguments import Arguments
from srtrain.errors import StorageError

if TYPE_CHECKING:
    from srtrain.inference.export.card import Source
    from srtrain.inference.export.made import Made
    from srtrain.inference.export.places import Places
    from srtrain.networks.generator import Generator

_LONGEST = 200  # bytes of a file's name, to which an ending and a temporary's are added


def main(argv: list[str]) -> int:
    """Make the file, check it, write it and a model card beside it."""
    arguments = _parser().parse_args(argv)
    from srtrain.inference.export.places import is_folder, places
    from srtrain.inference.export.program import refuse_without_packages

    if arguments.to == "onnx":
        refuse_without_packages()
    if not is_folder(arguments.output):  # before torch is imported
        places(arguments.output, "", arguments.to, overwrite=arguments.overwrite)
    try:
        _export(arguments)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror or error}",
            where=str(error.filename or ""),
            fix="free some space or choose another -o",
        ) from error
    return 0


def _export(arguments: argparse.Namespace) -> None:
    from srtrain.files import sha256_of, write_atomic
    from srtrain.inference.export.about import plain
    from srtrain.inference.export.card import (
        Source,
        added,
        card,
        earlier,
        licence_of,
        licensed,
        use,
    )
    from srtrain.inference.export.places import make_folder, places
    from srtrain.networks.image_only import image_only
    from srtrain.networks.loading import load

    loaded = load(arguments.checkpoint, trust=arguments.trust)
    _refuse_flow(loaded.generator, loaded.file)
    generator = image_only(loaded.generator, trust=arguments.trust)
    source = Source(loaded.file.name, sha256_of(loaded.file), plain(loaded.about))
    half, overwrite = arguments.precision == "fp16", arguments.overwrite
    name = _name(source, generator, half=half)
    found = places(arguments.output, name, arguments.to, overwrite=overwrite)
    existing = earlier(found.card, source, overwrite=overwrite)
    if existing:
        existing = licensed(existing, arguments.licence, overwrite=overwrite)
    licence = licence_of(existing) or arguments.licence
    make_folder(found.model.parent)
    made = _make(arguments, loaded.file, generator, source, licence)
    line = _line(found, made)
    text = (
        added(existing, line, use=use(found.model.name, generator.scale))
        if existing
        else card(found.model.name, generator, source, licence=licence, file=line)
    ).encode(errors="replace")
    write_atomic(found.model, made.content)
    write_atomic(found.card, text)
    _tell(found, generator, source, made, licence)


def _refuse_flow(generator: Generator, file: Path) -> None:
    from srtrain.networks.flow import Flow

    if isinstance(generator.net, Flow):
        raise StorageError(
            "a flow cannot be exported: other programs neither draw its noise nor take its steps",
            where=str(file),
            fix="srtrain infer makes its images; a run of experiment=mse can be exported",
        )


def _make(
    arguments: argparse.Namespace, file: Path, generator: Generator, source: Source, licence: str
) -> Made:
    """The content of the file, checked."""
    import srtrain

    half = arguments.precision == "fp16"
    kept = ("experiment", "step", "version")
    said = {key: source.about[key] for key in kept if key in source.about}
    said = {"version": srtrain.__version__, **said, "source_sha256": source.sha256}
    if licence:
        said["licence"] = licence
    if arguments.to == "safetensors":
        from srtrain.inference.export.weights import to_safetensors

        return to_safetensors(generator, said, half=half, trust=arguments.trust)
    from srtrain.inference.export.program import to_onnx

    about = {"architecture": generator.architecture, "scale": generator.scale, **said}
    texts = {f"srtrain_{key}": str(value) for key, value in about.items()}
    return to_onnx(file, texts, half=half, trust=arguments.trust)


def _line(found: Places, made: Made) -> str:
    """The file, in the card."""
    import hashlib

    size, digest = _size(made), hashlib.sha256(made.content).hexdigest()
    said = "; ".join(f"{label} {words}" for label, words in made.facts.items())
    return f"- `{found.model.name}`, {size}, sha256 `{digest}`: {said}"


def _size(made: Made) -> str:
    return f"{len(made.content) / 1e3:,.0f} kB"


def _tell(found: Places, generator: Generator, source: Source, made: Made, licence: str) -> None:
    from srtrain.cli.process import short
    from srtrain.cli.quiet import make_console
    from srtrain.cli.table import places
    from srtrain.inference.export.card import UNSTATED, words

    count = sum(parameter.numel() for parameter in generator.net.parameters())
    holds = [f"{generator.architecture} ×{generator.scale}, {count:,} parameters"]
    holds += [words(source.about)] if words(source.about) else []
    if source.about.get("head"):
        made.warnings.append("the image alone is exported; bands stay in the checkpoint")
    rows = [
        ("file", f"{short(found.model)}  {_size(made)}"),
        ("holds", ", ".join(holds)),
        *made.facts.items(),
        ("card", short(found.card)),
        ("licence", licence or UNSTATED.replace("`", "")),
    ]
    places(make_console(quiet=False), rows)
    for warning in made.warnings:
        print(f"srtrain: note: {warning}", file=sys.stderr)


def _name(source: Source, generator: Generator, *, half: bool) -> str:
    """The file's, where -o does not say it: no path, whatever a checkpoint calls itself."""
    stem = Path(source.file).stem
    if source.about.get("experiment"):
        stem = f"{source.about['experiment']}_{generator.architecture}_x{generator.scale}"
    stem = re.sub(r"[^\w.+-]+", "_", stem).lstrip(".").encode()[:_LONGEST].decode(errors="ignore")
    return f"{stem}_fp16" if half and not stem.endswith("_fp16") else stem


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(
        prog="srtrain export",
        description="Write a trained network as safetensors (spandrel, chaiNNer, ComfyUI) or ONNX,"
        " read it back, compare it with the model, and put a model card beside it.",
        epilog="exit codes: 0 done, 2 nothing started (the output exists …), 4 the checkpoint, the"
        " disk, or a network that cannot be had in that form: then there is no file",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="file or run folder")
    parser.add_argument("--to", required=True, choices=("safetensors", "onnx"))
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="file or folder (default: the working folder, <experiment>_<network>_x<scale>)",
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "fp16"),
        help="of the weights; half the size, the difference is said (default: fp32)",
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="for the model card")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PKG",
        help="a package whose networks the checkpoint may name (runs its code)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    return parser
