"""``srtrain``: trains on ``KEY=VALUE…``; a first word without ``=`` is a subcommand."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import srtrain
from srtrain.cli.flags import FLAGS, Request, read_flags
from srtrain.cli.heap import uncollected
from srtrain.cli.process import lifetime
from srtrain.cli.tell import expected, last_words, say, tell
from srtrain.cli.unbroken import unbroken_output
from srtrain.config.nearest import did_you_mean, nearest
from srtrain.errors import ConfigError

# name -> (module with `main(argv) -> int`, one line for --help); imported when called
SUBCOMMANDS = {
    "infer": ("srtrain.cli.infer", "upscale images: infer CKPT INPUT… -o OUT"),
    "evaluate": (
        "srtrain.cli.evaluate.main",
        "measure and compare models: evaluate MODEL… --scale N --data NAME=DIR … -o OUT",
    ),
    "tradeoff": (
        "srtrain.cli.tradeoff.main",
        "from one start sweep a loss weight, or train several answers; draw the plane",
    ),
    "export": (
        "srtrain.cli.export",
        "hand over a model: export CKPT --to safetensors | onnx",
    ),
    "check-data": ("srtrain.cli.check_data", "list all images that a training would stumble over"),
    "fetch-weights": ("srtrain.cli.fetch_weights", "fetch weights of VGG, LPIPS, DISTS; verified"),
    "benchmark": ("srtrain.cli.benchmark.main", "what srtrain costs: benchmark SUITE"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns its exit code (``srtrain --help`` lists them)."""
    words = sys.argv[1:] if argv is None else argv
    with nullcontext() if _names_a_subcommand(words) else unbroken_output():
        return _main(words, to_the_end=argv is None)


def _main(words: list[str], *, to_the_end: bool) -> int:
    verbose = not {"verbose=true", "--verbose"}.isdisjoint(words)
    try:
        return _dispatch(words, to_the_end=to_the_end)
    except KeyboardInterrupt as stop:
        said = ["interrupted", *getattr(stop, "__notes__", [])]
        print(f"srtrain: {' · '.join(said)}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _names_a_subcommand(words):  # … | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        known = expected(error)
        if known is None:
            return _crash(error, words, verbose=verbose)
        if verbose:
            traceback.print_exc()
        tell(known)
        return known.exit_code


def _names_a_subcommand(words: list[str]) -> bool:
    return bool(words) and "=" not in words[0] and not words[0].startswith(("-", "+", "~"))


def _dispatch(words: list[str], *, to_the_end: bool) -> int:
    if _names_a_subcommand(words):
        return _subcommand(words[0], words[1:])
    request = Request((), (), frozenset({"help"})) if not words else read_flags(words)
    if "help" in request.switches:
        from srtrain.config.help import help_page

        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print(help_page(SUBCOMMANDS, FLAGS, request.config_dirs, colour=colour))
        return 0
    if "version" in request.switches:
        print(f"srtrain {srtrain.__version__}")
        return 0
    if request.switches & {"multirun", "completion"}:
        from srtrain.cli import sweep

        if "completion" in request.switches:
            return sweep.complete(words)
        return sweep.sweep(request)
    with lifetime(words, to_the_end=to_the_end), uncollected():
        return _train(request)


def _subcommand(name: str, words: list[str]) -> int:
    if name not in SUBCOMMANDS:
        guess = did_you_mean(nearest(name, SUBCOMMANDS), f"commands: {', '.join(SUBCOMMANDS)}")
        raise ConfigError(f"unknown command {name}", where="command line", fix=guess)
    module = import_module(SUBCOMMANDS[name][0])
    return int(module.main([w for w in words if w not in {"verbose=true", "--verbose"}]))


def _train(request: Request) -> int:
    from omegaconf import OmegaConf

    from srtrain.config.preflight import prepare

    run = prepare(request.words, config_dirs=request.config_dirs)
    if "cfg" in request.switches:
        print(OmegaConf.to_yaml(run.config), end="")
        return 0
    from srtrain.cli import train

    train.run(run.config, experiment=run.experiment, choices=run.choices, argv=run.argv)
    return 0


def _crash(error: Exception, words: list[str], *, verbose: bool) -> int:
    """A bug: its traceback goes to the run folder if there is one, else to the working folder."""
    given = next((w.split("=", 1)[1] for w in words if w.startswith("run_dir=")), "")
    path = Path(getattr(error, "run_dir", given)).absolute() / "error.log"
    text = "".join(traceback.format_exception(error))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError:
        verbose = True
    if verbose:
        print(text, file=sys.stderr, end="")
    what = last_words(error)
    say(f"{what} · {path} · a bug: please report that file", about=what)
    return 1
