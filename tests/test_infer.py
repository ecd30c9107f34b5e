"""From a checkpoint to larger images of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from srtrain.cli.infer import main
from srtrain.cli.main import main as srtrain
from srtrain.errors import ConfigError, DataError, StorageError
from srtrain.images import Picture, read_picture, write_picture
from srtrain.inference.jobs import Job, plan
from srtrain.inference.upscaler import Upscaler, load_model, pick_device
from tests.upscaling import smooth, tiny_generator, touch, write_tiny

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler(tiny_generator())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("ckpt"))


# The upscaler --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_pil_in_pil_out(upscaler: Upscaler, mode: str) -> None:
    image = Image.fromarray(smooth(10, 14)).convert(mode)
    image.info["icc_profile"] = SRGB
    larger = upscaler.upscale(image)
    assert larger.size == (28, 20)
    assert larger.mode == {"P": "RGB", "1": "L", "CMYK": "RGB"}.get(mode, mode)
    if mode != "CMYK":
        assert larger.info["icc_profile"] == SRGB


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 2), (9, 7, 3), (9, 7, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_array_in_same_array_out(
    upscaler: Upscaler, shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    top = 1.0 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max  # type: ignore[type-var]
    array = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    larger = upscaler.upscale(array)
    assert larger.shape == (18, 14, *shape[2:])
    assert larger.dtype == dtype
    assert 0.2 * top < larger.mean() < 0.8 * top


@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 9, 7), (2, 3, 9, 7), (1, 1, 9, 7)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_tensor_in_same_tensor_out(
    upscaler: Upscaler, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    image = torch.rand(shape)
    image = (image * 255).to(dtype) if dtype == torch.uint8 else image.to(dtype)
    larger = upscaler.upscale(image)
    assert larger.shape == (*shape[:-2], 18, 14)
    assert larger.dtype == dtype


def test_all_kinds_agree(upscaler: Upscaler) -> None:
    levels = smooth(12, 16)
    want = upscaler.upscale(levels)
    tensor = torch.from_numpy(levels).permute(2, 0, 1)
    np.testing.assert_array_equal(np.array(upscaler.upscale(Image.fromarray(levels))), want)
    np.testing.assert_array_equal(upscaler.upscale(tensor).permute(1, 2, 0).numpy(), want)
    direct = upscaler.generator(tensor[None].float() / 255).clamp(0, 1)[0].permute(1, 2, 0)
    np.testing.assert_array_equal((direct.detach() * 255 + 0.5).floor().byte().numpy(), want)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.full((4, 4, 3), 200.0), ValueError, "divide by 255"),
        (torch.full((3, 4, 4), 200.0), ValueError, "divide by 255"),
        (np.full((4, 4, 3), -5.0), ValueError, r"got -5 … -5$"),
        (np.full((4, 4, 3), np.nan), ValueError, r"\[0, 1\], got NaN or infinity$"),
        (torch.full((3, 4, 4), torch.inf), ValueError, r"\[0, 1\], got NaN or infinity$"),
        (np.zeros((4, 4, 5), np.uint8), ValueError, r"\(H, W\).*got \(4, 4, 5\); channels first"),
        (np.zeros((6, 4, 5), np.uint8), ValueError, r"\(H, W\).*got \(6, 4, 5\)$"),
        (np.zeros((3, 9, 7), np.uint8), ValueError, r"array\.transpose\(1, 2, 0\)$"),
        (torch.zeros(2, 4, 4), ValueError, r"\(C, H, W\).*got \(2, 4, 4\)$"),
        ("photo.png", TypeError, "PIL image"),
    ],
)
def test_misuse_is_named(
    upscaler: Upscaler, image: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        upscaler.upscale(image)


@pytest.mark.parametrize(
    "kind", ["bool", "int8", "int32", "int64", "uint32", "uint64", "complex64", "longdouble", "U1"]
)
def test_arrays_of_other_types_are_refused(upscaler: Upscaler, kind: str) -> None:
    """Taken for [0, 1], they would be cut to 0 and 1 in silence."""
    for shape in ((4, 4), (4, 4, 3), (4, 4, 4)):
        with pytest.raises(TypeError, match=r"^expected uint8, uint16 or float.*cast to uint8"):
            upscaler.upscale(np.ones(shape, kind))


@pytest.mark.parametrize("kind", ["bool", "int8", "int32", "int64", "uint16", "complex64"])
def test_tensors_of_other_types_are_refused(upscaler: Upscaler, kind: str) -> None:
    with pytest.raises(TypeError, match=r"^expected uint8 or float.*cast to uint8"):
        upscaler.upscale(torch.ones(3, 4, 4).to(getattr(torch, kind)))


def test_load_model(checkpoint: Path) -> None:
    import srtrain

    model = srtrain.load_model(checkpoint, device="cpu")
    assert model.scale == 2
    levels = smooth(8, 8)
    np.testing.assert_array_equal(model.upscale(levels), Upscaler(tiny_generator()).upscale(levels))
    with pytest.raises(StorageError):
        load_model(checkpoint.parent / "absent.ckpt")


def test_devices_that_are_not_here_are_named() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="unknown device"):
        pick_device("abacus")
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(ConfigError, match="no CUDA device"):
            pick_device("cuda")


def test_self_ensemble_commutes_with_flips_and_turns() -> None:
    upscaler = Upscaler(tiny_generator(), self_ensemble=True)
    lr = torch.rand(1, 3, 8, 8)
    sr = upscaler.upscale_tensor(lr)
    torch.testing.assert_close(upscaler.upscale_tensor(lr.rot90(1, (2, 3))), sr.rot90(1, (2, 3)))
    torch.testing.assert_close(upscaler.upscale_tensor(lr.flip(3)), sr.flip(3))
    assert not torch.allclose(sr, Upscaler(tiny_generator()).upscale_tensor(lr), atol=1e-6)


def test_tiled_pictures_equal_whole_ones() -> None:
    picture = Picture(smooth(61, 47), alpha=smooth(61, 47, 1)[..., 0])
    whole, tiled = (
        Upscaler(tiny_generator(), tile=tile).upscale_picture(picture) for tile in (0, 16)
    )
    for left, right in ((whole.pixels, tiled.pixels), (whole.alpha, tiled.alpha)):
        assert np.abs(left.astype(int) - right).max() <= 1  # a tie may round either way
        assert (left != right).mean() < 1e-3


# What goes where -----------------------------------------------------------------------------


def test_plan_mirrors_folders_and_globs(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/x.png", "in/b/x.png", "in/ü ñ.jpg", "in/move.gif", "one.png")
    out = tmp_path / "out"

    def names(*inputs: str, output: Path = out) -> set[str]:
        jobs = plan([str(tmp_path / text) for text in inputs], output)
        return {job.target.relative_to(tmp_path).as_posix() for job in jobs}

    folder = {"out/a/x.png", "out/b/x.png", "out/ü ñ.jpg", "out/move.png"}
    assert names("in") == folder
    assert names("in", "one.png") == folder | {"out/one.png"}
    assert names("in/*/*.png") == {"out/a/x.png", "out/b/x.png"}
    assert names("in/**/x.png") == {"out/a/x.png", "out/b/x.png"}
    assert names("one.png", output=tmp_path / "big.webp") == {"big.webp"}
    assert names("one.png", "one.png") == {"out/one.png"}


@pytest.mark.parametrize(
    ("inputs", "output", "error", "message"),
    [
        (["a", "b"], "out", ConfigError, "wanted twice: .*a/x.png and .*b/x.png"),
        (["a"], "a", ConfigError, "would replace inputs"),
        (["a/x.png"], "a/x.png", ConfigError, "would replace inputs"),
        (["a"], "done", ConfigError, r"1 of 1 outputs exist: .*done/x.png.*--overwrite"),
        (["a", "b/y.png"], "a/x.png", ConfigError, "-o must be a folder"),
        (["absent"], "out", DataError, "no such file"),
        (["a/*.tif"], "out", DataError, "no file matches"),
        (["empty"], "out", DataError, "no images found"),
    ],
)
def test_plans_that_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: list[str],
    output: str,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a/x.png", "b/x.png", "b/y.png", "done/x.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        plan(inputs, Path(output))


def test_an_output_folder_inside_the_input_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path, "x.png", "out/x.png")
    jobs = plan([str(tmp_path)], tmp_path / "out", existing="replace")
    assert jobs == [Job(tmp_path / "x.png", tmp_path / "out" / "x.png")]


# The command ---------------------------------------------------------------------------------


def _every_kind(root: Path) -> dict[str, tuple[str, tuple[int, int]]]:
    """Writes good files of every kind; name -> (mode, size) of what must come out at x2."""
    colour, gray = smooth(10, 14), smooth(10, 14, 1)
    (root / "deep er").mkdir(parents=True)
    Image.fromarray(colour).save(root / "rgb.png", icc_profile=SRGB)
    Image.fromarray(gray[..., 0]).save(root / "gray.png")
    Image.fromarray(colour).quantize(16).save(root / "palette.png")
    Image.fromarray(np.dstack([colour, gray])).save(root / "rgba.png")
    Image.fromarray(colour).convert("CMYK").save(root / "cmyk.jpg")
    Image.fromarray(colour).save(root / "deep er" / "ünïcode 图.webp", lossless=True)
    Image.fromarray(colour).save(root / "frames.gif")
    write_picture(root / "gray16.png", Picture(gray.astype(np.uint16) * 257))
    write_picture(root / "rgb16.png", Picture(colour.astype(np.uint16) * 257))
    write_picture(root / "rgb16.tif", Picture(colour.astype(np.uint16) * 257, icc=SRGB))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colour).save(root / "turned.jpg", exif=exif)
    Image.new("RGB", (1, 1), "red").save(root / "dot.png")
    flat, upright = (28, 20), (20, 28)
    return {
        "rgb.png": ("RGB", flat),
        "gray.png": ("L", flat),
        "palette.png": ("RGB", flat),
        "rgba.png": ("RGBA", flat),
        "cmyk.jpg": ("RGB", flat),
        "deep er/ünïcode 图.webp": ("RGB", flat),
        "frames.png": ("RGB", flat),
        "gray16.png": ("I;16", flat),
        "rgb16.png": ("RGB", flat),
        "rgb16.tif": ("RGB", flat),
        "turned.jpg": ("RGB", upright),
        "dot.png": ("RGB", (2, 2)),
    }


def test_every_kind_of_file_and_three_bad_ones(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    want = _every_kind(tmp_path / "in")
    (tmp_path / "in" / "cut.png").write_bytes((tmp_path / "in" / "rgb.png").read_bytes()[:200])
    (tmp_path / "in" / "zero.png").touch()
    (tmp_path / "in" / "text.png").write_text("not an image")
    out = tmp_path / "out"
    assert main([str(checkpoint), str(tmp_path / "in"), "-o", str(out), "--device", "cpu"]) == 3
    printed = capsys.readouterr()
    for name in ("cut.png", "zero.png", "text.png"):
        assert printed.err.count(name) == 1, printed.err
    assert "12 images x2" in printed.out, printed.err
    assert "3 failed" in printed.out
    made = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert made == set(want)
    for name, (mode, size) in want.items():
        with Image.open(out / name) as image:
            assert (image.mode, image.size) == (mode, size), name
            assert image.getexif().get(0x0112, 1) == 1
        assert read_picture(out / name).bits == (16 if "16" in name else 8)
    assert read_picture(out / "rgb.png").icc == SRGB
    assert read_picture(out / "rgb16.tif").icc == SRGB
    eight, sixteen = (read_picture(out / n).pixels.astype(float) for n in ("rgb.png", "rgb16.png"))
    assert np.abs(sixteen / 257 - eight).max() <= 0.51


@pytest.mark.slow
def test_as_a_process(tmp_path: Path, checkpoint: Path, run_srtrain: Callable[..., object]) -> None:
    touch(tmp_path, "in/a.png")
    done = run_srtrain("infer", checkpoint, tmp_path / "in", "-o", tmp_path / "out", cwd=tmp_path)
    assert done.rc == 0, done.stderr  # type: ignore[attr-defined]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    again = run_srtrain("infer", checkpoint, tmp_path / "in", "-o", tmp_path / "out")
    assert again.rc == 2  # type: ignore[attr-defined]
    assert again.stderr.startswith("srtrain: error: 1 of 1 outputs exist")  # type: ignore[attr-defined]


def test_who_interrupts_is_told_how_to_go_on(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("srtrain.cli.infer._produce", interrupted)
    Image.fromarray(smooth(8, 9)).save(tmp_path / "a.png")
    line = ["infer", str(checkpoint), str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert srtrain(line) == 130
    told = "srtrain: interrupted · with --continue the same command makes the others\n"
    assert capsys.readouterr().err == told
