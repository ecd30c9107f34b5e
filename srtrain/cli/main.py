"""``srtrain``: trains on ``KEY=VALUE…``; a first word without ``=`` is a subcommand."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from pathlib import Path

import srtrain
from srtrain.errors import ConfigError, SrtrainError

# name -> (module with `main(argv) -> int`, one line for --help); imported when called
SUBCOMMANDS = {
    "infer": ("srtrain.cli.infer", "upscale files, folders, globs: infer CKPT INPUT… -o OUT"),
    "check-data": ("srtrain.cli.check_data", "list every image a training would stumble over"),
    "fetch-weights": ("srtrain.cli.fetch_weights", "download VGG19 and LPIPS weights, verified"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns its exit code (``srtrain --help`` lists them)."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(words)
    except SrtrainError as error:
        _report(error, words)
        return error.exit_code
    except KeyboardInterrupt:
        print("srtrain: interrupted", file=sys.stderr)
        return 130
    except Exception:
        return _crash(words)


def _dispatch(words: list[str]) -> int:
    first = words[0] if words else ""
    if first and "=" not in first and not first.startswith(("-", "+", "~")):
        return _subcommand(first, words[1:])
    if "--help" in words or "-h" in words:
        from srtrain.config.help import show_help

        show_help(SUBCOMMANDS)
        return 0
    if "--version" in words:
        print(f"srtrain {srtrain.__version__}")
        return 0
    return _train(words)


def _subcommand(name: str, words: list[str]) -> int:
    if name not in SUBCOMMANDS:
        raise ConfigError(
            f"unknown command {name!r}", where="command line", fix=", ".join(SUBCOMMANDS)
        )
    return int(import_module(SUBCOMMANDS[name][0]).main(words))


def _train(words: list[str]) -> int:
    from srtrain.config.compose import compose

    composed = compose(words)
    from srtrain.cli.train import run

    run(
        composed.config,
        experiment=composed.experiment,
        choices=composed.choices,
        argv=composed.argv,
    )
    return 0


def _report(error: SrtrainError, words: list[str]) -> None:
    if _verbose(words):
        traceback.print_exc()
    print(f"srtrain: error: {error}", file=sys.stderr)


def _verbose(words: list[str]) -> bool:
    return "verbose=true" in words or "--verbose" in words


def _crash(words: list[str]) -> int:
    run_dir = next((w.split("=", 1)[1] for w in words if w.startswith("run_dir=")), "")
    path = Path(run_dir) / "error.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(traceback.format_exc(), encoding="utf-8")
    if _verbose(words):
        traceback.print_exc()
    print(f"srtrain: error: a bug in srtrain · {os.path.abspath(path)} · report it", file=sys.stderr)
    return 1
