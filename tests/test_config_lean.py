"""What Hydra is spared at a start changes nothing of what is composed."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from srtrain.cli.heap import collect, uncollected
from srtrain.cli.main import main
from srtrain.config import lean
from srtrain.config.compose import compose

# Read by PyYAML's own parser and by libyaml: what they say must be the same.
TEXTS = [
    "lr: 1e-3\nbetas: [0.9, .99]\nsteps: 300_000",
    "word: on\nother: NO\nnone: ~\ntime: 12:30:45\nday: 2026-01-01",
    'a: ${mul:24,${scale}}   # a product\nb: "${x}"\nc: ???',
    "text: |\n  two\n  lines\nname: Läufe (1)\nempty: {}",
    "&base a: &b {x: 1}\nc:\n  <<: *b\n  y: 2",
    "inf: .inf\nminus: -.inf\nhex: 0x1F\noctal: 017\nword: 0o17",
    "path: !!python/object/apply:pathlib.Path [a, b]",
    "# nothing",
]
WRONG = ["a: 1\na: 2", "a: [1", "\ta: 1", "a: !unknown 1"]


def read(text: str, *, fast: bool) -> object:
    """``text`` as OmegaConf's own loader reads it, or as what replaces that does."""
    kinds = get_yaml_loader().__mro__
    own = next(
        k for k in kinds if k.__name__ == "OmegaConfLoader" and yaml.CSafeLoader not in k.__mro__
    )
    loader = lean._by_libyaml(lambda: own)() if fast else own
    return yaml.load(text, Loader=loader)


@pytest.mark.parametrize("text", TEXTS)
def test_libyaml_reads_what_omegaconf_reads(text: str) -> None:
    assert repr(read(text, fast=True)) == repr(read(text, fast=False))


@pytest.mark.parametrize("text", WRONG)
def test_libyaml_refuses_what_omegaconf_refuses(text: str) -> None:
    for fast in (False, True):
        with pytest.raises(yaml.YAMLError):
            read(text, fast=fast)


def test_what_is_made_otherwise_than_expected_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(other: int) -> int:
        return other

    module = SimpleNamespace(own=own)
    monkeypatch.setitem(sys.modules, "a_library", module)  # type: ignore[arg-type]
    for name, parameters in (("own", []), ("missing", []), ("own", ["other", "more"])):
        lean._replace("a_library", name, parameters, lambda _: pytest.fail("replaced"))
    lean._replace("not_imported", "own", ["other"], lambda _: pytest.fail("replaced"))
    assert module.own is own
    lean._replace("a_library", "own", ["other"], lambda given: lambda other: given(other) + 1)
    assert module.own(1) == 2


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra has looked for no plugins yet."""
    monkeypatch.delitem(Singleton._instances, Plugins, raising=False)
    monkeypatch.delitem(sys.modules, lean.PLUGINS, raising=False)
    monkeypatch.setattr(lean, "_own", [])


def launchers() -> set[str]:
    """Those that Hydra finds."""
    return {found.__name__ for found in Plugins.instance().discover(Launcher)}


@pytest.mark.usefixtures("fresh")
def test_one_run_looks_for_no_plugins_and_leaves_them_to_a_sweep() -> None:
    for _ in range(2):
        with lean.without_plugins() as left_out:
            assert left_out
            assert launchers() == {"BasicLauncher"}
    before = compose(["experiment=mse"]).config
    assert "JoblibLauncher" in launchers()
    with lean.without_plugins() as left_out:
        assert not left_out
        assert "JoblibLauncher" in launchers()
    assert compose(["experiment=mse"]).config == before


@pytest.mark.usefixtures("fresh")
def test_files_of_ones_own_may_name_plugins_and_look_up_choices(tmp_path: Path) -> None:
    files = {
        "experiment/mine": "# @package _global_\ndefaults:\n  - /note/of: ${experiment}\n"
        "  - override /hydra/launcher: joblib\n",
        "note/of/mine": "text: chosen by its name",
    }
    for name, text in files.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    composed = compose(["experiment=mine"], config_dirs=[tmp_path])
    assert OmegaConf.select(composed.config, "note.of.text") == "chosen by its name"


def test_garbage_is_collected_again() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
        collect()
        assert gc.isenabled()
    assert main(["experiment=mse", "scael=3"]) == 2
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
