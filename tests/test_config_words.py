"""Paths on the command line come as the shell delivers them; the rest is Hydra's grammar."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from srtrain.config.compose import hydra_ready
from srtrain.config.preflight import prepare
from srtrain.config.problems import RefusedError
from srtrain.config.words import jobs_of, quote_path

NAMES = [
    "run (1), lr=1e-4",
    'the "best", it\'s (2) = ä',
    "choice(1)",
    "7",
]


@pytest.mark.parametrize("name", NAMES)
def test_paths_come_as_the_shell_delivers_them(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "w.ckpt").touch()
    keys = {
        "run_dir": f"{folder}/new",
        "init_from": f"{folder}/w.ckpt",
        "paths.outputs": name,
        "paths.cache": str(folder),
        "data.train": str(folder),
        "data.val": str(folder),
    }
    words = ["data=folder", "budget=smoke", *(f"{key}={value}" for key, value in keys.items())]
    run = prepare(words)
    keys["init_from.path"] = keys.pop("init_from")
    assert {key: OmegaConf.select(run.config, key) for key in keys} == keys
    assert prepare(run.argv).config == run.config  # what ranks and continued runs are given
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-000001.ckpt").touch()
    assert prepare([f"resume={folder}"]).config.resume == str(folder)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['a ä', 'b (1)']", ["a ä", "b (1)"]),
        ("[{path: 'b (1)', repeat: 2}]", [{"path": "b (1)", "repeat": 2}]),
        ("'b (1)'", "b (1)"),
        (r"b\ \(1\)", "b (1)"),
    ],
)
def test_brackets_quotes_and_escapes_keep_hydras_grammar(
    text: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a ä", "b (1)"):
        Path(name).mkdir()
    run = prepare(["data=folder", "budget=smoke", f"data.train={text}"])
    assert run.config.data.train == value


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("run_dir=outputs/x-1.5", "run_dir=outputs/x-1.5"),
        ("run_dir=null", "run_dir=null"),
        ("data.train.leaves=320", "data.train.leaves=320"),
        ("data.val.Set5=a b", 'data.val.Set5="a b"'),
        ("++paths.cache=ä", '++paths.cache="ä"'),
        ("paths.outputs=${paths.cache}", "paths.outputs=${paths.cache}"),
        ("loss.terms.perceptual.features=a b", 'loss.terms.perceptual.features="a b"'),
        ("optimizer.lr=1,2", "optimizer.lr=1,2"),
    ],
)
def test_only_what_needs_it_is_quoted(word: str, quoted: str) -> None:
    assert quote_path(word) == quoted


def test_in_a_sweep_a_comma_stands_between_two_paths() -> None:
    words = [
        quote_path(word, sweeps=True)
        for word in ["data.train=a (1),b", "run_dir=ä", "data.val=choice(c,d)"]
    ]
    with hydra_ready():
        jobs = jobs_of(words)
    assert len(jobs) == 4
    assert jobs[0] == ['data.train="a (1)"', 'run_dir="ä"', "data.val=c"]


def test_two_experiments_are_refused() -> None:
    with pytest.raises(RefusedError, match="experiment is given twice"):
        prepare(["experiment=mse", "experiment=l1"])
