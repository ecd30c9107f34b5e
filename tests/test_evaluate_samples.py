"""``evaluate --samples``: what is drawn, measured, written, refused, and warned of."""

from __future__ import annotations

import csv
import shutil
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from srtrain.batch import to_float
from srtrain.cli.evaluate.sampled import Asked, Sampled, notes_of
from srtrain.cli.evaluate.tables import set_tables
from srtrain.degradation.resize import Bicubic
from srtrain.evaluation.results import ModelResult, Results, SetResult
from srtrain.evaluation.titles import OF_SAMPLES, TITLES
from srtrain.images import read_rgb8, to_uint8
from srtrain.inference.sampling import Sampling
from srtrain.metrics.samples import honesty
from srtrain.networks.build import build_generator
from srtrain.networks.flow import Flow
from srtrain.networks.generator import Generator
from srtrain.networks.loading import load_generator
from srtrain.networks.spec import Spec
from srtrain.networks.storage import write_checkpoint
from tests.data import noise, save
from tests.evaluating import evaluate, make_run, results
from tests.flows import write_moving
from tests.training import draw_images
from tests.upscaling import KWARGS

VELOCITY = {"_target_": "srtrain.networks.flow_unet.FlowUNet", "channels": 4, "multipliers": [1, 2]}
MEAN = {"_target_": "srtrain.networks.edsr.EDSRLite", **KWARGS}
DRAWN = ("--samples", 3, "--seed", 5, "--steps", 2)


def flow(source: str = "mean") -> Generator:
    torch.manual_seed(0)
    condition = {"mean": "none", "noise": "lr"}[source]
    kwargs = {"scale": 2, "velocity": VELOCITY, "source": source, "condition": condition}
    if source == "mean":
        kwargs["mean"] = MEAN
    spec = Spec(_target_="srtrain.networks.flow.Flow", kwargs={**kwargs, "steps": 4})
    made = build_generator(spec, scale=2)
    assert isinstance(made.net, Flow)
    torch.nn.init.normal_(made.net.velocity.last.weight, std=0.05)  # it starts at zero
    return made.eval()


def write_flow(folder: Path, source: str = "mean") -> Path:
    made = flow(source)
    path = folder / "checkpoints" / "step-000001.ckpt"
    path.parent.mkdir(parents=True)
    content = {
        "step": 1,
        "generator": dict(made.spec),
        "scale": 2,
        "state_dict": made.net.state_dict(),
        "train_state": {},
    }
    write_checkpoint(path, content)
    return folder


@pytest.fixture(scope="module")
def pmrf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flow(tmp_path_factory.mktemp("outputs") / "pmrf")


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "val"
    draw_images(folder, count=2, size=40)
    save(folder / "odd.png", noise(33, 47, 1))
    return folder


@pytest.fixture(scope="module")
def plain(pmrf: Path, val: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain")
    evaluate(pmrf, "--data", f"tiny={val}", "-o", out, *DRAWN, "--save-images")
    return out


def rows(found: Results, model: str = "pmrf") -> dict[str, dict[str, float]]:
    return next(each for each in found.models if each.name == model).data["tiny"].images


def test_figures_are_those_of_the_flows_own_samples(plain: Path, pmrf: Path, val: Path) -> None:
    """Sample by sample by ``Flow.sample``; what is saved is sample 0."""
    net = load_generator(pmrf).net
    assert isinstance(net, Flow)
    found = rows(results(plain))
    assert list(found) == ["image0", "image1", "odd"]
    for name, row in found.items():
        sr = read_rgb8(plain / "images" / "pmrf" / "tiny" / f"{name}.png")
        hr = read_rgb8(val / f"{name}.png")[: sr.shape[0], : sr.shape[1]]
        hr = to_float(torch.from_numpy(hr.copy()).permute(2, 0, 1))
        lr = Bicubic(scale=2)(hr[None], None)
        with torch.no_grad():
            drawn = [net.sample(lr, number=k, seed=5, steps=2)[0] for k in range(3)]
            expected = honesty(torch.stack(drawn), hr, mean=net.frozen(lr)[0], border=2)
        assert (to_uint8(drawn[0]) == sr).mean() > 0.999  # rounding to levels may tip a value
        names = [metric for metric in OF_SAMPLES if metric in expected]
        assert {metric for metric in row if metric in OF_SAMPLES} == set(names)
        for metric in names:
            assert row[metric] == pytest.approx(expected[metric], abs=2e-3), metric
        assert "single_error" not in row


def test_written_with_what_they_depend_on(plain: Path) -> None:
    found = results(plain)
    said = found.protocol["samples"]
    how = {"steps": 2, "sampler": "euler", "project": False}
    assert (said["number"], said["seed"], said["flows"]) == (3, 5, {"pmrf": how})
    assert said["expected"]["coverage"] == 0.5
    means = found.models[0].data["tiny"].means
    measured = [name for name in OF_SAMPLES if name in means]
    assert measured == [
        "sample_std", "ntire_diversity_mse", "coverage", "spread_error", "mean_of_n_psnr",
        "law", "law_to_mean", "orthogonality", "cost_db",
    ]  # fmt: skip
    assert not [name for name in means if name not in TITLES]
    laws = [row["law"] for row in rows(found).values()]
    assert min(laws) < means["law"] < max(laws)
    assert means["law"] != pytest.approx(sum(laws) / 3, rel=1e-6)  # of the sums, not the ratios
    with (plain / "images.csv").open() as stream:
        table = {(row["model"], row["image"]): row for row in csv.DictReader(stream)}
    assert float(table["pmrf", "odd"]["law"]) == rows(found)["odd"]["law"]
    assert table["bicubic", "odd"]["law"] == ""


def test_ranks_and_tiles_find_the_same(
    pmrf: Path, val: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (pmrf, "--data", f"tiny={val}", "-o", tmp_path, *DRAWN, "--tile", 8)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        evaluate(*words)
    for name, row in rows(results(tmp_path)).items():
        assert row == pytest.approx(rows(results(plain))[name], abs=5e-3)


def test_other_samples_are_another_evaluation(
    pmrf: Path, val: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(plain, tmp_path / "out")
    words = (pmrf, "--data", f"tiny={val}", "-o", out, "--save-images")
    evaluate(*words, *DRAWN)  # again: nothing to do
    assert "6 of 6 images measured before" in capsys.readouterr().err
    others = [[3, 6, 2], [3, 5, 3], [2, 5, 2]]
    asked = [[w for pair in zip(DRAWN[::2], own, strict=True) for w in pair] for own in others]
    for other in (*asked, [*DRAWN, "--sampler", "heun"], [*DRAWN, "--project"]):
        evaluate(*words, *other, code=2)
        assert "holds the results of another evaluation" in capsys.readouterr().err
    evaluate(*words, code=2)
    evaluate(*words, "--samples", 3, "--seed", 6, "--steps", 2, "--overwrite")
    assert "3 of 6 images measured before" in capsys.readouterr().err  # bicubic's
    assert rows(results(out))["odd"]["law"] != rows(results(plain))["odd"]["law"]


def test_without_samples_a_flow_is_its_sample_0(pmrf: Path, val: Path, tmp_path: Path) -> None:
    evaluate(pmrf, "--data", f"tiny={val}", "-o", tmp_path / "a")
    evaluate(pmrf, "--data", f"tiny={val}", "-o", tmp_path / "b", "--samples", 1)
    bare, one = (results(tmp_path / name) for name in "ab")
    how = {"steps": 4, "sampler": "euler", "project": False}
    assert bare.protocol["samples"] == {"number": 1, "seed": 0, "flows": {"pmrf": how}}
    for name, row in rows(bare).items():
        assert row.keys().isdisjoint(OF_SAMPLES)
        own = rows(one)[name]
        assert {metric: own[metric] for metric in row} == row
        assert own.keys() - row.keys() == {"orthogonality", "cost_db"}


def test_beside_models_of_one_image(
    pmrf: Path, val: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A posterior without a mean has no f; a network of one image has no samples."""
    posterior = write_flow(tmp_path / "posterior", "noise")
    mine = make_run(tmp_path / "mine")
    data = ("--data", f"tiny={val}", "-o", tmp_path / "out")
    evaluate(posterior, pmrf, mine, *data, *DRAWN)
    found = results(tmp_path / "out")
    assert {"law", "coverage"} < rows(found, "posterior")["odd"].keys()
    assert "orthogonality" not in rows(found, "posterior")["odd"]
    assert rows(found, "mine")["odd"].keys().isdisjoint(OF_SAMPLES)
    said = capsys.readouterr()
    assert "2 steps lean towards the mean" in said.err
    assert "pmrf: figures of one image are of sample 0 of seed 5, 2 steps" in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bicubic", "--samples", "4"], "no MODEL is a flow"),
        (["{flow}", "--seed", "1"], "--seed · add --samples N"),
        (["{flow}", "--seed", "1", "--steps", "2"], "only of samples · --seed, --steps"),
        (["{flow}", "--no-project"], "only of samples · --project"),
        (["{flow}", "--samples", "2", "--self-ensemble"], "flips and turns is no sample"),
        (["{flow}", "--self-ensemble"], "a flow's mean over flips and turns is no sample of it"),
    ],
)
def test_refused_in_one_line(
    words: list[str],
    said: str,
    pmrf: Path,
    val: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [word.format(flow=pmrf) for word in words]
    evaluate(*asked, "--data", f"tiny={val}", "-o", tmp_path / "out", code=2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_only_bicubic_lr_is_projected_on(
    val: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = write_moving(tmp_path, degradation="srtrain.degradation.blind.Blind")
    words = ("--data", f"tiny={val}", "-o", tmp_path / "out", *DRAWN, "--project")
    evaluate(blind, *words, code=2)
    assert "it was trained on LR images of Blind, which are not" in capsys.readouterr().err


def test_too_many_samples_for_the_memory(
    pmrf: Path,
    val: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("srtrain.cli.evaluate.sampled.available", lambda _: 3 * 40 * 40 * 122)
    evaluate(pmrf, "--data", f"tiny={val}", "-o", tmp_path, *DRAWN, code=3)
    assert "3 samples of 40x40 take 0.0 GB to measure" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "steps", "means", "said"),
    [
        ("noise", 2, {"rtm": 0.8, "law": 1.0}, "rtm 0.80 is above 0.5 · 2 steps: take 25"),
        ("noise", 25, {"rtm": 0.1, "law": 1.7}, "law 1.70 (1: as far apart as the truth, 1.78"),
        ("mean", 25, {"rtm": 0.9, "law": 1.7}, "0.5 · 25 steps: train longer, or take more"),
        ("mean", 25, {"rtm": 0.1, "law": 1.7}, ""),  # near each other by intention
        ("noise", 25, {"rtm": 0.4, "law": 1.2}, ""),
        (
            "mean",
            25,
            {"rtm": 0.9, "law": 0.6},
            "too far apart: law 0.60 (1: as far as the truth, 0",
        ),
        ("noise", 25, {"rtm": 0.9, "law": 0.8}, ""),
        ("noise", 25, {}, ""),
    ],
)
def test_falling_back_to_the_mean_is_said(
    source: str, steps: int, means: dict[str, float], said: str, tmp_path: Path
) -> None:
    file = write_flow(tmp_path / "run", source) / "checkpoints" / "step-000001.ckpt"
    asked = Asked(8, Sampling(8, steps=steps))
    model = Sampled("own", file, flow(source), tile=None, precision="fp32", asked=asked)
    found = Results([ModelResult("own", "", {"Set": SetResult(means, {})})])
    lines = list(notes_of(found, [model]))
    assert len(lines) == 1 + bool(said)
    assert said in lines[-1]


def test_tables_fit_a_terminal(plain: Path) -> None:
    stream = StringIO()
    console = Console(file=stream, width=80)
    for table in set_tables(results(plain), "tiny", baseline="bicubic"):
        console.print(table)
    printed = stream.getvalue()
    assert "…" not in printed
    for word in ("NTIRE-mse", "spread~err", "law/f", "orth", "cost", "3.01", "3 samples of seed 5"):
        assert word in printed
    exact = next(line for line in printed.splitlines() if line.strip().startswith("exact"))
    assert exact.split() == ["exact", "0.500", "1.000", "1.000", "1.000", "3.01"]
