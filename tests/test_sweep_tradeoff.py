"""``srtrain tradeoff``: one start, a sweep, the plane; what was trained is not trained again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from srtrain.cli.main import main
from srtrain.cli.tradeoff import sweep
from srtrain.cli.tradeoff.arms import compose
from srtrain.cli.tradeoff.main import KEY, VALUES, parser
from srtrain.evaluation.results import read_results
from tests.training import draw_sets, words


def command(images: Path, output: Path, *extra: str) -> list[str]:
    """Two values of a term that needs no features, three steps each."""
    own = ("run_dir=", "trainer.max_steps=", "trainer.val_every", "logger=")
    shared = [word for word in words(images, output) if not word.startswith(own)]
    swept = ["--key", "loss.weights.fft", "--values", "0,0.5", "--steps", "3", "--start-steps", "4"]
    data = ["--data", f"tiny={images / 'val'}", "--lpips", "none", "--dists", "none"]
    return [
        "tradeoff",
        *shared,
        "trainer.val_every_n_steps=4",
        *swept,
        *data,
        "-o",
        str(output),
        *extra,
    ]


@pytest.mark.slow
def test_the_plane_from_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRTRAIN_CACHE", str(tmp_path / "cache"))
    images, output = draw_sets(tmp_path / "images"), tmp_path / "out"
    assert main(command(images, output)) == 0
    results = read_results(output / "evaluation" / "results.json")
    names = ["start", "fft 0", "fft 0.5"]
    assert [model.name for model in results.models] == [*names, "bicubic"]
    assert len({model.sha256 for model in results.models[:3]}) == 3
    with Image.open(output / "plane.png") as plane:
        assert plane.size == (840, 585)
    for name in names:
        assert f">{name}</text>" in (output / "plane.svg").read_text()
    steps = [json.loads((output / f / "summary.json").read_text())["generator_steps"]
             for f in ("start", "fft-0", "fft-0.5")]  # fmt: skip
    assert steps == [4, 3, 3]
    config = (output / "fft-0.5" / "config.yaml").read_text()
    assert f"path: {output / 'start'}" in config  # all from one start
    capsys.readouterr()

    more = command(images, output)
    more[more.index("0,0.5")] = "0.5,1"
    assert main(more) == 0
    said = capsys.readouterr().out
    assert "start: trained before" in said
    assert "fft 0.5: trained before" in said
    assert said.count("experiment") == 1  # one training alone
    assert "fft 1" in (output / "plane.svg").read_text()

    assert main(command(images, output, "--steps", "2")) == 2  # one folder, two trainings
    assert "trained before with other words" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--values", "0,0"], "a value twice · --values"),
        (["--values", "much"], "loss.weights.fft"),
        (["--key", "loss.weights.ftt"], "did you mean loss.weights.fft?"),
        (["trainer.max_steps=7"], "the sweep itself sets this · trainer.max_steps=7"),
        (["init_from=x.ckpt"], "the sweep itself sets this · init_from=x.ckpt"),
        (["scael=3"], "scale"),
        (["--lpips", "squeeze", "--features", "none.pth"], "no such file · none.pth"),
    ],
)
def test_refused_before_anything_is_trained(
    extra: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = draw_sets(tmp_path / "images")
    assert main(command(images, tmp_path / "out", *extra)) in {2, 4}
    assert says in capsys.readouterr().err
    assert not [path for path in tmp_path.glob("out/*") if path.is_dir()]


def test_data_must_be_there_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = draw_sets(tmp_path / "images")
    assert main(command(images, tmp_path / "out", "--data", str(tmp_path / "nowhere"))) == 3
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("codes", "evaluated", "code"),
    [
        ({}, "start, fft 0, fft 0.5, fft 1", 0),
        ({"fft 0": 5}, "start, fft 0.5, fft 1", 5),
        ({"fft 0.5": 5, "fft 1": 5}, "start, fft 0", 5),
        ({"fft 0": 5, "fft 0.5": 5, "fft 1": 5}, None, 5),
        ({"start": 5}, None, 5),
        ({"fft 0.5": 4}, None, 4),  # a full disk, a signal: those that follow would meet it too
        ({"fft 0.5": 130}, None, 130),
    ],
)
def test_a_value_that_diverges_is_left_out(
    codes: dict[str, int],
    evaluated: str | None,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def evaluate(_: object, arms: list[sweep.Arm], **__: object) -> int:
        seen.append(", ".join(arm.name for arm in arms))
        return 0

    drawn: list[list[str]] = []
    monkeypatch.setattr(sweep, "train", lambda arm, **_: codes.get(arm.name, 0))
    monkeypatch.setattr(sweep, "_evaluate", evaluate)
    monkeypatch.setattr(sweep, "_draw", lambda _, names: drawn.append(names) or 0)
    images = draw_sets(tmp_path / "images")
    assert main(command(images, tmp_path / "out", "--values", "0,0.5,1")) == code
    assert seen == ([evaluated] if evaluated else [])
    assert [", ".join(["start", *names]) for names in drawn] == seen
    said = capsys.readouterr().out
    for name in codes if evaluated else ():
        assert f"left out    {name}: it diverged" in said


def test_values_beyond_a_regulariser_are_asked_for_on_purpose(tmp_path: Path) -> None:
    """The sweep of the perceptual weight passes 1 % of the pixel term's, where an accident ends."""
    values = ["--key", KEY, "--values", ",".join(VALUES), "--steps", "5"]
    options = parser().parse_args(["-o", str(tmp_path), *values, "budget=smoke"])
    start, arms = sweep.arms_of(options)
    weights = [config.loss.weights.perceptual for config in compose([start, *arms])]
    assert weights == [0.0, 0.0, 0.0033, 0.0099, 0.033, 0.1]
    assert main(["budget=smoke", "loss.weights.perceptual=0.1", "--cfg"]) == 2
