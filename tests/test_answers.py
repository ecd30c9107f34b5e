"""``srtrain tradeoff --answers``: from one checkpoint several answers, one figure, one page."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from srtrain.cli.main import main
from srtrain.cli.tradeoff import answers, arms, page, samples
from srtrain.cli.tradeoff.main import ANSWERS, parser
from srtrain.cli.tradeoff.samples import Sampled
from srtrain.errors import ConfigError
from srtrain.evaluation import plots
from srtrain.evaluation.results import ModelResult, Results, SetResult, read_results
from srtrain.evaluation.tradeoff import points
from tests.test_report import Page
from tests.training import draw_sets, train, words

if TYPE_CHECKING:
    import argparse

    from srtrain.training.run_folder import RunFolder

ALL = ",".join(ANSWERS)
TINY = [
    *(f"{name}:generator.velocity.channels=8" for name in answers.FLOWS),
    *(f"{name}:generator.steps=2" for name in answers.FLOWS),
    "patchgan:discriminator.n_layers=1",
]


def command(images: Path, output: Path, *extra: str, names: str = ALL) -> list[str]:
    """Two steps of each answer on 40² images."""
    own = ("run_dir=", "trainer.max_steps=", "trainer.val_every", "checkpoint.", "logger=")
    shared = [word for word in words(images, output) if not word.startswith(own)]
    tiny = [word for word in TINY if word.partition(":")[0] in names.split(",")]
    data = ["--data", f"tiny={images / 'val'}", "--lpips", "none", "--dists", "none"]
    steps = ["--steps", "2", "--samples", "3"]
    return [
        "tradeoff",
        "--answers",
        names,
        *shared,
        *tiny,
        *data,
        *steps,
        "-o",
        str(output),
        *extra,
    ]


def asked(line: list[str]) -> argparse.Namespace:
    return parser().parse_intermixed_args(line[1:])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def mse(images: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(images, tmp_path_factory.mktemp("runs") / "mse")


def test_each_begins_as_it_can(images: Path, tmp_path: Path) -> None:
    """A flow moves the mean; others go on from its weights, of a head the image's alone."""
    start, made = answers.arms_of(asked(command(images, tmp_path)))
    by_name = {arm.name: arm for arm in made}
    assert list(by_name) == list(ANSWERS)
    place = tmp_path / "mse"
    assert start.folder == place
    assert by_name["pmrf"].begin == by_name["posterior"].begin == (f"mse_checkpoint={place}",)
    assert by_name["patchgan"].begin == (f"init_from.path={place}",)
    assert by_name["quantile"].begin == (f"init_from.path={place}", "init_from.partial=true")
    configs = dict(zip(["mse", *by_name], arms.compose([start, *made]), strict=True))
    assert configs["posterior"].generator.condition == "mean"
    assert configs["pmrf"].generator.velocity.channels == 8
    assert configs["patchgan"].generator.num_features == 8
    assert [configs[name].trainer.max_steps for name in ("mse", "pmrf", "quantile")] == [10, 2, 2]
    assert {config.scale for config in configs.values()} == {2}


def test_whose_generator_is_meant_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["tradeoff", "--answers", "pmrf,quantile", "-o", "out", "generator=edsr"]
    answers._say_who_keeps_a_generator(asked(line))
    said = "generator=edsr: for mse and quantile; pmrf keeps a flow of its own"
    assert capsys.readouterr().err == f"srtrain: {said} · pmrf:generator=… is for that\n"
    answers._say_who_keeps_a_generator(asked([*line[:2], "quantile", *line[3:]]))
    answers._say_who_keeps_a_generator(asked([*line[:-1], "pmrf:generator.steps=3"]))
    assert not capsys.readouterr().err
    nobody = asked([*line[:2], "pmrf,posterior", *line[3:], "--mse-checkpoint", "run"])
    with pytest.raises(ConfigError, match="posterior keep flows of their own · generator=edsr"):
        answers._say_who_keeps_a_generator(nobody)


def test_another_start_is_another_training(images: Path, mse: RunFolder, tmp_path: Path) -> None:
    line = command(images, tmp_path, "--mse-checkpoint", str(mse.path), names="pmrf,quantile")
    start, (pmrf, quantile) = answers.arms_of(asked(line))
    assert start.folder == mse.path
    assert f"mse_checkpoint={mse.path}" in pmrf.words
    assert quantile.words[-2:] == [f"init_from.path={mse.path}", "init_from.partial=true"]
    assert pmrf.begin == quantile.begin == ()


@pytest.mark.parametrize(
    ("names", "extra", "says", "code"),
    [
        ("pmrf,pmrf", [], "an answer twice, or mse, which is the start · --answers", 2),
        ("mse,pmrf", [], "an answer twice, or mse", 2),
        ("pmfr", [], "did you mean", 2),
        ("pmrf", ["experiment=mse"], "the command itself sets this · experiment=mse", 2),
        ("pmrf", ["pmrf:init_from=x"], "the command itself sets this · pmrf:init_from=x", 2),
        ("pmrf", ["posterior:seed=3"], "no answer is called posterior · posterior:seed=3", 2),
        ("pmrf", ["pmrf:generator.stesp=3"], "did you mean generator.steps?", 2),
        ("pmrf", ["--values", "0,1"], "--values needs no --answers", 2),
        ("pmrf", ["--samples", "1"], "one sample varies in nothing · --samples", 2),
        ("pmrf", ["--sample-steps", "0"], "no steps make no sample · --sample-steps", 2),
        ("pmrf,quantile", ["--mse-checkpoint", "nowhere"], "no such file: ", 4),
        (
            "pmrf,quantile",
            ["--mse-checkpoint", "{mse}", "scale=4"],
            "the start is of scale 2, the",
            2,
        ),
        ("pmrf", ["--data", "nowhere"], "nowhere", 3),
    ],
)
def test_refused_before_anything_is_trained(
    names: str,
    extra: list[str],
    says: str,
    code: int,
    images: Path,
    mse: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = command(images, tmp_path / "out", *(w.format(mse=mse.path) for w in extra), names=names)
    assert main(line) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--samples", "4"], ["--mse-checkpoint", "x"]])
def test_a_sweep_has_no_samples(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tradeoff", *option]) == 2
    assert f"{option[0]} needs --answers A,B…" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["sweep.json", "report.html", "plane.png"])
def test_what_something_else_wrote_stays(
    file: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).write_text("mine")
    assert main(command(images, tmp_path)) == 2
    assert f"holds {file} of something else" in capsys.readouterr().err
    assert (tmp_path / file).read_text() == "mine"


@pytest.mark.parametrize(
    ("codes", "shown", "code"),
    [
        ({}, "pmrf, posterior, patchgan, quantile", 0),
        ({"pmrf": 5}, "posterior, patchgan, quantile", 5),
        ({"patchgan": 4, "quantile": 5}, "pmrf, posterior", 4),
        (dict.fromkeys(ANSWERS, 1), None, 1),
        ({"mse": 5}, None, 5),
        ({"posterior": 130}, None, 130),
        ({"posterior": 75}, None, 75),
    ],
)
def test_an_answer_that_fails_is_named_and_the_others_go_on(
    codes: dict[str, int],
    shown: str | None,
    code: int,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    def show(_: object, __: object, kept: list[arms.Arm], failed: list[str], **___: object) -> int:
        seen.append(", ".join(arm.name for arm in kept))
        assert set(failed) == set(codes)
        return 0

    config = SimpleNamespace(scale=2, trust=[], trainer=SimpleNamespace(max_steps=2))
    monkeypatch.setattr(answers, "compose", lambda of: [config for _ in of])
    monkeypatch.setattr(answers, "train", lambda arm, **_: codes.get(arm.name, 0))
    monkeypatch.setattr(answers, "_shown", show)
    assert main(command(images, tmp_path / "out")) == code
    assert seen == ([shown] if shown else [])
    said, erred = capsys.readouterr()
    for name, why in codes.items() if shown else ():
        assert f"left out    {name}: exit code {why}" in said
    stopped = "stopped in posterior · the same command continues"
    assert (stopped in erred) == (code in {75, 130})


def test_packages_that_are_trusted_reach_the_evaluation(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the page is told the command as it was given."""
    said: list[object] = []

    def show(options: argparse.Namespace, *_: object, scale: int, **__: object) -> int:
        said.extend([arms.measures(options, scale=scale)[-4:], options.command])
        return 0

    monkeypatch.setattr(answers, "train", lambda *_, **__: 0)
    monkeypatch.setattr(answers, "_shown", show)
    line = [*command(images, tmp_path / "out"), "trust=[mine,yours]"]
    assert main(line) == 0
    assert said == [
        ["--trust", "mine", "--trust", "yours"],
        shlex.join(["srtrain", *line]),
    ]


@pytest.mark.parametrize(("stage", "made"), [("make_samples", False), ("measure_samples", True)])
def test_samples_that_are_stopped_are_no_failure(
    stage: str,
    made: bool,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By Ctrl-C in the samples themselves, or in the evaluation of them, which says it itself."""

    def interrupted(*_: object, **__: object) -> int:
        if made:
            return 130
        raise KeyboardInterrupt

    config = SimpleNamespace(scale=2, trust=[], trainer=SimpleNamespace(max_steps=2))
    monkeypatch.setattr(answers, "compose", lambda of: [config for _ in of])
    monkeypatch.setattr(answers, "train", lambda *_, **__: 0)
    monkeypatch.setattr(answers, "_evaluate", lambda *_, **__: 0)
    monkeypatch.setattr(samples, "claim_samples", lambda *_, **__: 0)
    monkeypatch.setattr(samples, "make_samples", lambda *_, **__: {})
    monkeypatch.setattr(samples, stage, interrupted)
    assert main(command(images, tmp_path / "out")) == 130
    assert ("the same command continues" in capsys.readouterr().err) == (not made)
    assert not (tmp_path / "out" / "report.html").exists()


def test_samples_of_something_else_are_refused_before_anything_is_measured(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_anew: list[object] = []
    tiny = [word.partition(":")[2] for word in TINY if word.startswith("posterior:")]
    train(
        images, tmp_path / "out" / "posterior", "experiment=posterior", "generator=flow_lite", *tiny
    )
    (folder := tmp_path / "out" / "samples" / "posterior").mkdir(parents=True)
    of_others = {"checkpoint": "another", "seed": 0, "steps": 1, "images": {}}
    (folder / "made_of.json").write_text(json.dumps(of_others))
    monkeypatch.setattr(answers, "train", lambda *_, **__: 0)
    monkeypatch.setattr(answers, "_evaluate", lambda *_, **__: measured_anew.append(1))
    assert main(command(images, tmp_path / "out", names="posterior")) == 2
    assert not measured_anew


def measured(**models: list[float]) -> Results:
    """MODEL=PSNR of its images, each as far from the texture of HR as its PSNR says."""
    made = []
    for name, psnrs in models.items():
        rows = {f"i{k}": {"psnr_y": p, "hf_ratio": p / 100} for k, p in enumerate(psnrs)}
        means = {m: float(np.mean([row[m] for row in rows.values()])) for m in rows["i0"]}
        made.append(ModelResult(name.replace("_", " "), "", {"set": SetResult(means, rows)}))
    return Results(made)


def of_flow(count: int = 3) -> tuple[Sampled, Results]:
    one = Sampled("flow", Path(), count)
    values = {one.title(k): [20.0 + k, 21.0 + k] for k in range(count)}
    return one, measured(**values, **{one.mean_name: [23.0, 24.0]})


def test_clouds_are_of_the_same_images_and_metric() -> None:
    one, further = of_flow()
    own = measured(mse=[24.0, 25.0], flow=[20.0, 21.0])
    (cloud,) = page.clouds(own, further, "set", {"flow": one})
    assert [p.psnr for p in cloud.samples] == [21.5, 22.5]  # sample 0 is the model's own point
    assert (cloud.mean.model, cloud.mean.psnr) == ("flow, mean of 3", 23.5)
    assert page.clouds(measured(mse=[24.0], flow=[20.0]), further, "set", {"flow": one}) == []
    assert page.clouds(own, further, "other", {"flow": one}) == []
    assert page.clouds(own, None, "set", {}) == []


def test_the_plane_shows_samples_and_their_mean() -> None:
    one, further = of_flow()
    own = measured(mse=[24.0, 25.0], flow=[20.0, 21.0])
    beside = page.clouds(own, further, "set", {"flow": one})
    for whole in (True, False):
        (axes,) = plots.plane(points(own, "set"), whole=whole, clouds=beside).axes
        drawn = {
            (line.get_marker(), round(float(line.get_xdata()[0]), 3)): line for line in axes.lines
        }
        faint = [
            at for (mark, at), line in drawn.items() if mark == "o" and line.get_alpha() == 0.3
        ]
        assert faint == [21.5, 22.5]
        assert ("D", 23.5) in drawn
        low, high = axes.get_xlim()
        assert low < 20.5 < 24.5 < high
        assert "flow, mean of 3" in [text.get_text() for text in axes.texts]
        assert "flow, sample 1" not in [text.get_text() for text in axes.texts]


@pytest.mark.slow
def test_four_answers_from_one_command(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    line = command(images, output, "--start-steps", "3")
    assert main(line) == 0
    results = read_results(output / "evaluation" / "results.json")
    assert [model.name for model in results.models] == ["mse", *ANSWERS, "bicubic"]
    assert len({model.sha256 for model in results.models[:5]}) == 5
    steps = {n: json.loads((output / n / "summary.json").read_text()) for n in ("mse", *ANSWERS)}
    assert [found["generator_steps"] for found in steps.values()] == [3, 2, 2, 2, 2]
    assert f"path: {output / 'mse'}" in (output / "quantile" / "config.yaml").read_text()
    with Image.open(output / "plane.png") as plane:
        assert plane.size == (840, 585)
    figures_are_those_of_the_results(output)
    samples_are_those_of_the_flow(output, images)
    the_page_shows_them(output)

    written = {path: path.stat().st_mtime_ns for path in output.glob("samples/**/*.png")}
    again = output / "samples" / "pmrf" / "sample2" / "tiny" / "image1.png"
    before = again.read_bytes()
    again.unlink()
    shutil.rmtree(output / "quantile")
    capsys.readouterr()
    assert main(line) == 0
    said = capsys.readouterr().out
    assert said.count("trained before") == 4
    assert said.count("experiment") == 1  # quantile alone
    assert again.read_bytes() == before
    for path, at in written.items():
        assert path == again or path.stat().st_mtime_ns == at, path

    assert main([*line, "seed=5"]) == 2  # one folder, two trainings
    assert "trained before with other words" in capsys.readouterr().err
    assert main([*line, "--sample-steps", "3"]) == 2  # nor are samples replaced
    assert "holds the samples of another checkpoint, of other steps" in capsys.readouterr().err


def figures_are_those_of_the_results(output: Path) -> None:
    """Read as plain JSON: what is drawn is what was measured."""
    both = [
        json.loads((output / name / "results.json").read_text())
        for name in ("evaluation", "samples_evaluation")
    ]
    means = {m["name"]: m["data"]["tiny"] for of in both for m in of["models"]}
    results, further = (
        read_results(output / name / "results.json")
        for name in ("evaluation", "samples_evaluation")
    )
    sampled = {n: Sampled(n, output / "samples" / n, 3) for n in answers.FLOWS}
    beside = page.clouds(results, further, "tiny", sampled)
    (axes,) = plots.plane(points(results, "tiny"), clouds=beside).axes
    drawn = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() in ("o", "D")]
    own = [means[n]["psnr_y"] for n in ("mse", *ANSWERS, "bicubic")]
    clouds = [
        means[f"{n}, {of}"]["psnr_y"]
        for n in answers.FLOWS
        for of in ("sample 1", "sample 2", "mean of 3")
    ]
    assert drawn == pytest.approx([*own, max(own), *clouds], abs=1e-12)
    for name in answers.FLOWS:  # measured as a network and as finished images
        assert means[f"{name}, sample 0"]["psnr_y"] == pytest.approx(
            means[name]["psnr_y"], abs=0.02
        )
        assert f">{name}, mean of 3</text>" in (output / "plane.svg").read_text()


def samples_are_those_of_the_flow(output: Path, images: Path) -> None:
    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image).astype(float)

    for name in answers.FLOWS:
        for file in sorted((images / "val").glob("*.png")):
            at = output / "samples" / name
            stack = np.stack([read(at / f"sample{k}" / "tiny" / file.name) for k in range(3)])
            own = read(output / "evaluation" / "images" / name / "tiny" / file.name)
            assert np.abs(own - stack[0]).max() <= 1
            assert np.abs(stack[1] - stack[2]).mean() > 1
            mean = read(at / "mean_of_3" / "tiny" / file.name)
            assert np.array_equal(mean, np.floor(stack.mean(axis=0) + 0.5))


def the_page_shows_them(output: Path) -> None:
    found = Page((output / "report.html").read_text())
    titles = [row["title"] for row in found.data["rows"]]
    assert titles == [
        "One answer of each", "pmrf, seed by seed", "posterior, seed by seed", "quantile, its band",
    ]  # fmt: skip
    layers = {
        *("hr", "lr"),
        *(f"sr {name}" for name in found.data["pictures"][0]["sr"]),
        *(f"extra {name}" for name in found.data["pictures"][0]["extra"]),
    }
    keys = [key for row in found.data["rows"] for _, key in row["tiles"]]
    assert set(keys) <= layers
    assert len(keys) == 7 + 6 + 6 + 5
    values = found.data["images"][0]["values"]
    assert "psnr_y" in values["posterior, sample 1"]
    assert "tradeoff --answers" in "".join(found.text)
