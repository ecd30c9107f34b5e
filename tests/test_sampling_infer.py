"""From the checkpoint of a flow to the files of its samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from srtrain.cli.main import main
from srtrain.cli.spread_picture import spread_picture
from srtrain.evaluation.heat import heat
from srtrain.images import Picture, read_picture, write_picture
from tests.flows import write_moving
from tests.upscaling import smooth, touch, write_tiny

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving(tmp_path_factory.mktemp("flow"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.png"
    write_picture(path, Picture(smooth(20, 14)))
    return path


def infer(checkpoint: Path, *words: str | Path) -> int:
    return main(["infer", str(checkpoint), *map(str, words)])


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def levels(path: Path) -> np.ndarray:
    return read_picture(path).pixels.astype(np.int64)


def test_samples_their_mean_and_spread(
    checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ("--samples", "4", "--seed", "1", "--steps", "6", "--spread-values")
    assert infer(checkpoint, photo, "-o", out, *words) == 0
    told = capsys.readouterr()
    assert "1 image x2, 4 samples each, in " in told.out
    assert not told.err.strip()
    made = [f"photo_sample{k}.png" for k in range(4)]
    assert names(out) == sorted([*made, "photo_mean.png", "photo_spread.npy", "photo_spread.png"])
    samples = np.stack([levels(out / name) for name in made])
    assert samples.shape == (4, 40, 28, 3)
    assert np.abs(samples.mean(axis=0) - levels(out / "photo_mean.png")).max() <= 1
    values = np.load(out / "photo_spread.npy")
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, samples.std(axis=0, ddof=1).mean(axis=2), atol=0.6)
    picture = levels(out / "photo_spread.png")
    assert np.array_equal(picture, spread_picture(values))


@pytest.mark.parametrize("other", [("--tile", "6"), ("--samples", "2"), ("--tile", "0")])
def test_the_same_seed_gives_the_same_files(
    other: tuple[str, str], checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    words = ("--samples", "3", "--seed", "5")
    infer(checkpoint, photo, "-o", tmp_path / "a", *words)
    infer(checkpoint, photo, "-o", tmp_path / "b", *words, *other)
    for number in range(2):
        name = f"photo_sample{number}.png"
        assert np.array_equal(levels(tmp_path / "a" / name), levels(tmp_path / "b" / name))


def test_without_samples_it_is_sample_0(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    assert infer(checkpoint, photo, "-o", tmp_path / "a", "--seed", "5") == 0
    assert infer(checkpoint, photo, "-o", tmp_path / "b", "--seed", "5", "--samples", "1") == 0
    assert names(tmp_path / "a") == ["photo.png"]
    assert names(tmp_path / "b") == ["photo_sample0.png"]  # one has neither mean nor spread
    one, other = levels(tmp_path / "a/photo.png"), levels(tmp_path / "b/photo_sample0.png")
    assert np.array_equal(one, other)
    assert infer(checkpoint, photo, "-o", tmp_path / "c") == 0
    assert np.abs(levels(tmp_path / "c/photo.png") - one).mean() > 5  # another seed


def test_folders_kinds_and_names(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_picture(folder / "deep" / "deep.png", Picture(smooth(9, 8).astype(np.uint16) * 257))
    write_picture(folder / "gray.jpg", Picture(smooth(9, 8, 1)))
    veil = np.tile(np.arange(0, 240, 30, dtype=np.uint8), (9, 1))
    write_picture(folder / "veiled.png", Picture(smooth(9, 8), veil))
    assert infer(checkpoint, folder, "-o", tmp_path / "out", "--samples", "2") == 0
    kinds = ("sample0", "sample1", "mean")
    stems = {"deep/deep": ".png", "gray": ".jpg", "veiled": ".png"}
    want = [f"{stem}_{kind}{suffix}" for stem, suffix in stems.items() for kind in kinds]
    assert names(tmp_path / "out") == sorted([*want, *(f"{stem}_spread.png" for stem in stems)])
    found = {name: read_picture(tmp_path / "out" / name) for name in want}
    for kind in kinds:
        assert found[f"deep/deep_{kind}.png"].bits == 16
        assert found[f"gray_{kind}.jpg"].pixels.shape == (18, 16, 1)
        alpha = found[f"veiled_{kind}.png"].alpha
        assert alpha is not None
        assert np.array_equal(alpha, np.asarray(found["veiled_mean.png"].alpha))  # not sampled
        assert np.abs(np.diff(alpha.astype(int), axis=0)).max() <= 40  # as the veil: columns


def test_what_exists(
    checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(photo.with_name("second.png"), Picture(smooth(9, 8)))
    out, words = tmp_path / "out", ("--samples", "2", "--steps", "6")
    assert infer(checkpoint, photo, "-o", out, *words) == 0
    kept = (out / "photo_mean.png").stat().st_mtime_ns
    assert infer(checkpoint, photo.parent, "-o", out, *words) == 2
    assert "4 of 8 outputs exist: " in capsys.readouterr().err
    assert infer(checkpoint, photo.parent, "-o", out, *words, "--continue") == 0
    assert "note: 1 made before are kept, whatever they were made with" in capsys.readouterr().out
    assert (out / "photo_mean.png").stat().st_mtime_ns == kept
    assert len(names(out)) == 8
    (out / "photo_sample1.png").unlink()
    assert infer(checkpoint, photo.parent, "-o", out, *words, "--continue") == 0
    assert (out / "photo_mean.png").stat().st_mtime_ns > kept  # an image is made as a whole
    capsys.readouterr()
    assert infer(checkpoint, photo, "-o", out, "--samples", "1", "--overwrite") == 2
    said = capsys.readouterr().err  # they would stand beside a sample of another call
    assert "3 files of an earlier call with more samples: " in said
    assert [name in said for name in ("sample1", "mean", "spread")] == [True] * 3
    assert len(names(out)) == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--samples 0",
            "argument --samples: must be a whole number of 1 or more, not 0 · srtrain",
        ),
        (
            "--steps 0",
            "argument --steps: must be a whole number of 1 or more, not 0 · srtrain",
        ),
        ("--steps many", "must be a whole number of 1 or more, not many"),
        ("--seed -1", "argument --seed: must be a whole number of 0 or more, not -1"),
        ("--sampler rk45", "argument --sampler: invalid choice: 'rk45'"),
        ("--self-ensemble", "a mean over flips and turns averages what was sampled"),
        ("--spread-values", "--spread-values needs --samples of 2 or more"),
    ],
)
def test_refused(
    words: str, said: str, checkpoint: Path, photo: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert infer(checkpoint, photo, "-o", tmp_path / "out", *words.split()) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", ["--samples 2", "--seed 1", "--steps 5", "--no-project"])
def test_no_samples_of_what_is_no_flow(
    words: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(write_tiny(tmp_path), photo, "-o", tmp_path / "out", *words.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("srtrain: error: EDSRLite predicts one image: there is nothing to")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("degradation", "code"),
    [("srtrain.degradation.blind.Blind", 2), ("srtrain.degradation.resize.Bicubic", 0), ("", 0)],
)
def test_only_bicubic_lr_is_projected_on(
    degradation: str, code: int, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_moving(tmp_path, degradation=degradation)
    assert infer(checkpoint, photo, "-o", tmp_path / "out", "--project", "--steps", "6") == code
    told = capsys.readouterr().err.strip()
    want = "it was trained on LR images of Blind, which are not bicubic · --project · leave it out"
    assert told == (f"srtrain: error: {want}" if code else "")
    assert infer(checkpoint, photo, "-o", tmp_path / "other", "--no-project") == 0


def test_two_inputs_that_want_one_spread(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path / "in", "a.png", "a.jpg")
    assert infer(checkpoint, tmp_path / "in", "-o", tmp_path / "out", "--samples", "2") == 2
    assert "1 outputs are wanted twice: " in capsys.readouterr().err


def test_bad_images_stop_nothing_else(
    checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo.with_name("broken.png").write_bytes(photo.read_bytes()[:60])
    assert infer(checkpoint, photo.parent, "-o", tmp_path / "out", "--samples", "2") == 3
    told = capsys.readouterr()
    assert "broken.png" in told.err
    assert "1 image x2, 2 samples each, in " in told.out
    assert len(names(tmp_path / "out")) == 4


@pytest.mark.parametrize(("steps", "said"), [("1", "falls back to the mean"), ("25", "")])
def test_few_steps_are_told(
    steps: str, said: str, checkpoint: Path, photo: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert infer(checkpoint, photo, "-o", tmp_path / "out", "--steps", steps) == 0
    told = capsys.readouterr().err
    assert (said in told) if said else not told.strip()


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_a_flow_is_not_exported(
    kind: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(checkpoint), "--to", kind, "-o", str(tmp_path / "out")]) == 4
    told = capsys.readouterr().err
    assert told.startswith("srtrain: error: a flow cannot be exported: ")
    assert "srtrain infer makes its images" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("peak", "top"), [(0.0, 1), (0.9, 1), (1.005, 1), (7.0, 10), (60.0, 100)])
def test_the_scale_fits_and_is_written(peak: float, top: int) -> None:
    """From 0 to the least of 1, 2, 5, 10 … that 99 % of the pixels do not exceed."""
    spread = np.linspace(0, peak, 200 * 100, dtype=np.float32).reshape(100, 200)
    picture = spread_picture(spread)
    assert np.array_equal(picture[:100, :200], heat(spread, hottest=top))
    scale = {tuple(pixel) for pixel in picture[:, 200:].reshape(-1, 3).tolist()}
    assert {tuple(pixel) for pixel in heat(np.float32([[0, top]]), hottest=top)[0].tolist()} < scale
