"""The training suite: that its arms do the same work, and what it makes of their costs."""

from __future__ import annotations

import argparse
import os
import subprocess
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from srtrain.cli.benchmark import reference, runs, training
from srtrain.cli.benchmark.bare import Bare
from srtrain.cli.benchmark.driven import KEPT, Preloaded, drive
from srtrain.cli.benchmark.options import add_common
from srtrain.cli.benchmark.reference import PairedImages, Reference
from srtrain.cli.benchmark.report import from_json
from srtrain.cli.benchmark.training import Rate
from srtrain.cli.benchmark.workload import NETWORKS, cut_pictures, draw_pictures
from srtrain.cli.main import main
from srtrain.config.preflight import prepare
from srtrain.training.guards import Guard
from srtrain.training.loop import NVML
from srtrain.training.supervised import SupervisedSR
from tests.forks import forked
from tests.training import draw_sets, train, weights, words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = 6  # of the runs in tests/training.py


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark") / "pictures"
    draw_pictures(folder, count=2, scale=4, side=160)
    return folder


@pytest.mark.parametrize(
    "extra",
    [
        ("experiment=l1",),
        ("experiment=mse_plus_perceptual",),
        ("experiment=mse", "discriminator=patchgan_lite", "data.hr_patch_size=36"),
    ],
    ids=["l1", "vgg", "adversary"],
)
def test_the_bare_loop_does_the_same_work(
    extra: tuple[str, ...], images: Path, tmp_path: Path
) -> None:
    run = train(images, tmp_path / "run", *extra)
    bare = Bare(words(images, tmp_path / "bare", *extra))
    before = [value.clone() for value in bare.live]
    for _ in range(STEPS):
        bare.step()
    found = weights(run, STEPS)
    net = bare.net.state_dict()
    for name, value in net.items():
        torch.testing.assert_close(value, found[f"raw.generator.net.{name}"], rtol=0, atol=1e-5)
    for average, name in zip(bare.average, net, strict=True):
        torch.testing.assert_close(average, found[name], rtol=0, atol=1e-5)
    moved = max(float((old - new).abs().max()) for old, new in zip(before, bare.live, strict=True))
    assert moved > 1e-3


def test_flops_are_those_of_the_convolutions(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: two FLOPs per multiplication; a backward pass is two forwards, less the input's."""
    monkeypatch.setenv(NVML, "1")
    bare = Bare(words(images, tmp_path, "experiment=l1"))
    seen = []
    for layer in bare.net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda m, _, out: seen.append((m, out.shape)))
    bare.step()
    assert os.environ[NVML] == "0"  # as a run on CPUs has it
    forwards = [2 * m.weight.numel() * s[0] * s[2] * s[3] for m, s in seen]
    assert bare.flops == pytest.approx(3 * sum(forwards) - forwards[0])


class Trace:
    """Turns that are always asked for; what is told of them goes to a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def tell(self, word: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{word} ")

    def begin(self, *, step: int) -> None:
        self.tell(f"begin{step}")

    def stepped(self) -> None:
        self.tell("step")


@pytest.mark.parametrize(("switches", "guarded"), [(set(), STEPS), ({"Guard", "Loader"}, 0)])
def test_a_run_is_driven(switches: set[str], guarded: int, images: Path, tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace")

    def prepared() -> None:
        drive(trace, switches)  # type: ignore[arg-type]
        Guard.on_train_batch_end = lambda *_: trace.tell("guard")  # type: ignore[method-assign]

    log = tmp_path / "log"
    assert forked(words(images, tmp_path / "run"), log, prepare=prepared) == 0, log.read_text()
    told = trace.file.read_text()
    assert told.startswith("begin0 ")
    assert told.count("step") == STEPS
    assert told.count("guard") == guarded


def test_without_guards_no_step_is_refused() -> None:
    assert SupervisedSR.guarded is True  # what the switch sets to False


def test_a_preloaded_loader_begins_again() -> None:
    assert list(islice(Preloaded(range(100)), KEPT + 2)) == [*range(KEPT), 0, 1]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_words_of_every_network_compose(network: str, pictures: Path) -> None:
    given = options("")
    of = runs.Runs(given, pictures.parent, network, "cpu", 150)
    parts = runs.PARTS.values() if network == "tiny" else ()  # which no network changes
    for part in [None, *parts]:
        paired = part is not None and part.paired
        config = prepare([*of.words("arm", paired=paired), *(part.words if part else ())]).config
        assert config.trainer.log_every_n_steps >= 100  # the default, or never


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (4, 4), (100, 100), (200, 100)])
def test_every_turn_pays_for_a_line(steps: int, every: int, pictures: Path) -> None:
    of = runs.Runs(options(""), pictures.parent, "tiny", "cpu", steps)
    assert prepare(of.words("srtrain")).config.trainer.log_every_n_steps == every
    without = [*of.words("arm"), *runs.PARTS["logging"].words]
    assert prepare(without).config.trainer.log_every_n_steps == runs.NEVER
    given = options("--override trainer.log_every_n_steps=7")
    of = runs.Runs(given, pictures.parent, "tiny", "cpu", steps)
    assert prepare(of.words("srtrain")).config.trainer.log_every_n_steps == 7


def options(line: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common(parser)
    training.add_options(parser)
    return parser.parse_args(line.split())


def test_pictures_are_as_large_as_photos(pictures: Path) -> None:
    hr, lr = (sorted((pictures / name).glob("*.png")) for name in ("hr", "lr"))
    assert [path.name for path in hr] == [path.name for path in lr] == ["000.png", "001.png"]
    for path, side in ((hr[0], 160), (lr[0], 40)):
        with Image.open(path) as picture:
            assert picture.size == (side, side)
    assert 1.5 < hr[0].stat().st_size / 160**2 < 2.5  # bytes a pixel, compressed
    assert hr[0].read_bytes() != hr[1].read_bytes()


def test_the_reference_crops_pairs(pictures: Path) -> None:
    items = PairedImages(pictures / "hr", pictures / "lr", patch=48, scale=4)
    assert len(items) == 2
    for index in (0, 1, 0, 1):
        lr, hr = items[index]
        assert (lr.shape, hr.shape) == ((3, 12, 12), (3, 48, 48))
        small = hr.unflatten(2, (12, 4)).unflatten(1, (12, 4)).mean((2, 4))
        assert float(np.corrcoef(small.flatten(), lr.flatten())[0, 1]) > 0.98


@pytest.mark.parametrize(
    ("side", "starts"), [(64, (0, 32, 64, 96)), (48, (0, 24, 48, 72, 96, 112))]
)
def test_sub_images_are_pairs(
    side: int, starts: tuple[int, ...], pictures: Path, tmp_path: Path
) -> None:
    cut_pictures(pictures, tmp_path, scale=4, side=side)
    items = PairedImages(tmp_path / "hr", tmp_path / "lr", patch=side, scale=4)
    assert len(items) == 2 * len(starts) ** 2
    whole = {name: reference.decoded(pictures / name / "001.png") for name in ("hr", "lr")}
    corners = [(x, y) for y in starts for x in starts]
    for (hr, lr), (x, y) in zip(items.files[len(starts) ** 2 :], corners, strict=True):
        for path, part in ((hr, 1), (lr, 4)):
            top, left, of = y // part, x // part, side // part
            expected = whole[path.parent.name][top : top + of, left : left + of]
            np.testing.assert_array_equal(reference.decoded(path), expected)


def test_opencvs_channels_are_swapped_in_the_crop_alone(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imread(path: str, flag: str) -> np.ndarray:
        assert flag == "color"
        with Image.open(path) as picture:
            return np.ascontiguousarray(np.asarray(picture)[..., ::-1])

    items = PairedImages(pictures / "hr", pictures / "lr", patch=48, scale=4)
    found, whole = [], []
    for cv2 in (None, SimpleNamespace(imread=imread, IMREAD_COLOR="color")):
        monkeypatch.setattr(reference, "cv2", cv2)
        torch.manual_seed(0)
        found.append(items[0])
        whole.append(reference.decoded(items.files[0][0]))
    np.testing.assert_array_equal(whole[1], whole[0][..., ::-1])
    for by_pillow, by_opencv in zip(*found, strict=True):
        assert torch.equal(by_pillow, by_opencv)


def test_the_reference_learns(
    images: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NVML, "1")
    loop = Reference(words(images, tmp_path, "experiment=l1", "scale=4"), pictures)
    first = {name: value.clone() for name, value in loop.average.items()}
    steps: Iterator[int] = loop.steps()
    assert next(steps) == 0
    assert os.environ[NVML] == "0"  # as a run on CPUs has it
    for name, parameter in loop.net.named_parameters():
        expected = first[name] + (1 - loop.decay) * (parameter.detach() - first[name])
        torch.testing.assert_close(loop.average[name], expected)
    assert 0 < loop.logged["pixel"] < 1
    assert any(not torch.equal(value, first[name]) for name, value in loop.average.items())


def test_shares_and_pairs_by_hand() -> None:
    """Rounds of which the second is twice as slow for everybody."""
    costs = {"bare": [6.0, 12.0], "srtrain": [8.0, 16.0], "reference": [16.0, 32.0]}
    costs["without EMA"] = [7.0, 14.0]
    rate = Rate("net", "CPU-s", samples=48, flops=1e9, notes={"bare": "tensors"})
    table = rate.table(costs, [2e10, 1e10])
    assert [arm.rounds for arm in table.arms] == [[8, 4], [6, 3], [3, 1.5], [48 / 7, 24 / 7]]
    assert [arm.note for arm in table.arms] == ["tensors", "", "", ""]
    assert table.ratios(table.arms[1]) == (0.75, 0.75, 0.75)
    assert table.share_of_matrix(table.arms[1]) == pytest.approx((0.3, 0.3, 0.3))
    pair, shares = training._further(options("--peer"), rate, costs)
    assert (pair.base, [arm.name for arm in pair.arms]) == ("reference", ["reference", "srtrain"])
    assert pair.ratios(pair.arms[1]) == (2.0, 2.0, 2.0)
    found = {arm.name: arm.rounds for arm in shares.arms}
    assert found == {"all beyond bare": [25.0, 25.0], "EMA": [12.5, 12.5]}


@pytest.mark.parametrize("line", ["--networks tinny", "--parts ema", "--steps 0"])
def test_bad_options_are_refused(line: str) -> None:
    assert main(["benchmark", "training", *line.split()]) == 2


@pytest.mark.parametrize(
    "line",
    [
        "--peer-side 480",
        "--peer --peer-side 482",
        "--peer --peer-side 92",
        "--peer --peer-side 480 --side 400",
    ],
)
def test_sub_images_that_cannot_be_cut_are_refused(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "training", *line.split()]) == 2
    assert "--peer-side" in capsys.readouterr().err


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose file says another number in each of two commits."""
    checkout = tmp_path / "toy"
    checkout.mkdir()
    identity = ["-c", "user.name=toy", "-c", "user.email=toy@example.com"]

    def git(*rest: str) -> None:
        subprocess.run(["git", *identity, *rest], cwd=checkout, check=True, capture_output=True)

    git("init", "-q")
    for number in "12":
        (checkout / "file").write_text(number)
        git("add", "file")
        git("commit", "-q", "-m", number)
    monkeypatch.setattr(runs, "CHECKOUT", checkout)
    return checkout


def test_an_earlier_commit_is_laid_out(toy: Path, tmp_path: Path) -> None:
    for revision, number in (("HEAD~1", "1"), ("HEAD", "2")):
        assert (runs.earlier(revision, tmp_path / number) / "file").read_text() == number
    assert sorted(path.name for path in toy.iterdir()) == [".git", "file"]


@pytest.mark.parametrize("revision", ["HEAD~2", "--output=x"])
def test_no_such_commit(revision: str, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "training", f"--against={revision}"]) == 2
    assert f"--against {revision}" in capsys.readouterr().err
    assert not (toy / "x").exists()


@pytest.mark.slow
def test_whole_runs_take_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    line = (
        "--networks tiny --parts guards --peer --peer-side 48 --against HEAD --rounds 2 --steps 3"
    )
    sizes = (
        "--batch 2 --hr-patch 32 --pictures 2 --side 100 --device cpu --override optimizer.lr=1e-5"
    )
    given = [*line.split(), "--peer-side", "48", *sizes.split(), "--json", str(file)]
    assert main(["benchmark", "training", *given]) == 0
    table, peer, commit, shares = from_json(file.read_text(encoding="utf-8")).tables
    names = ["bare", "srtrain", "HEAD", "reference", "without guards"]
    assert [arm.name for arm in table.arms] == names
    assert all(len(arm.rounds) == 2 and min(arm.rounds) > 0 for arm in table.arms)
    assert all(table.share_of_matrix(arm) for arm in table.arms)
    notes = {arm.name: arm.note for arm in table.arms}
    assert "48² sub-images" in notes["reference"]
    assert "no validation" in notes["srtrain"]
    assert (peer.base, commit.base) == ("reference", "HEAD")
    assert [arm.name for arm in shares.arms] == ["all beyond bare", "guards"]
    said = capsys.readouterr().out
    assert all(name in said for name in names)
