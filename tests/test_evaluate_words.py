"""What the words of ``srtrain evaluate`` mean, and what is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from srtrain.cli.evaluate.finished import match_finished
from srtrain.cli.evaluate.main import main
from srtrain.cli.evaluate.sets import MADE, DataSet, Item, open_sets
from srtrain.cli.evaluate.words import name_models
from srtrain.errors import ConfigError, DataError, SrtrainError, StorageError
from tests.data import noise, save
from tests.evaluating import make_run
from tests.upscaling import touch, write_tiny

SHAPES = {"hr": (16, 24), "lr": (8, 12)}


def images(folder: Path, *names: str, side: str = "hr") -> Path:
    for name in names:
        save(folder / name, noise(*SHAPES[side], seed=len(name)))
    return folder


# Sets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hr", "lr", "word", "found", "said"),
    [
        (["a.png", "sub/b.png"], [], "{}", {"a": None, "sub/b": None}, MADE),
        (["HR/a.png"], ["LR_bicubic/X2/ax2.png"], "{}", {"a": "ax2"}, "LR_bicubic/X2"),
        (["HR/a.png"], ["LR_bicubic/X3/ax3.png"], "{}", {"a": None}, MADE),  # of another scale
        (["GT/a.png"], ["LRbicx2/a.png"], "{}", {"a": "a"}, "LRbicx2"),
        (["GTmod12/a.png"], ["LR/x2/a.png", "LR/x4/a.png"], "{}", {"a": "a"}, "LR/x2"),
        (["HR/a.png"], ["LR/a_LR.png"], "{}", {"a": "a_LR"}, "/LR"),
        (["HR/a.png"], ["LR/a_LR.png"], "{}/HR", {"a": None}, MADE),
        (["b/a.png"], ["c/a_x2.png"], "{0}/b:{0}/c", {"a": "a_x2"}, "/c"),
        (["i_HR.png"], ["i_LR.png"], "{}", {"i_HR": "i_LR"}, "given"),  # as SelfExSR's folders
    ],
)
def test_layouts_of_sets(
    tmp_path: Path,
    hr: list[str],
    lr: list[str],
    word: str,
    found: dict[str, str | None],
    said: str,
) -> None:
    images(tmp_path, *hr)
    images(tmp_path, *lr, side="lr")
    (data,) = open_sets([f"Name={word.format(tmp_path)}"], scale=2)
    assert data.name == "Name"
    assert {item.name: item.lr and item.lr.stem for item in data.items} == found
    assert said in data.lr_from


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["{}/Set5"], ["Set5"]),
        (["{}/Set5/HR"], ["Set5"]),
        (["{}/Set5", "mine={}/a=b"], ["Set5", "mine"]),
        (["{}/a=b"], ["a=b"]),  # a path that is there is a path
        (["demo"], ["demo"]),
        (["photos=demo"], ["photos"]),
    ],
)
def test_names_of_sets(tmp_path: Path, words: list[str], names: list[str]) -> None:
    images(tmp_path, "Set5/HR/a.png", "a=b/c.png")
    found = open_sets([word.format(tmp_path) for word in words], scale=2)
    assert [data.name for data in found] == names
    assert all(data.items for data in found)


def test_sizes_are_cut_to_the_scale_and_content_is_hashed(tmp_path: Path) -> None:
    save(tmp_path / "a.png", noise(17, 23, seed=0))
    save(tmp_path / "b.png", noise(17, 23, seed=0))
    save(tmp_path / "c.png", noise(17, 23, seed=1))
    (tmp_path / "d.png").write_bytes(b"no image")
    (data,) = open_sets([str(tmp_path)], scale=4)
    assert [item.size for item in data.items] == [(16, 20)] * 3
    same, again, other = (item.digest for item in data.items)
    assert same == again != other
    assert list(data.bad) == ["d"]
    assert "d.png" in data.bad["d"]


@pytest.mark.parametrize(
    ("files", "words", "error", "says"),
    [
        ([], ["{}/none"], DataError, "no such folder.*none"),
        (["x.txt"], ["{}"], DataError, "holds no images"),
        (["HR/a.png", "GT/a.png"], ["{}"], ConfigError, "several HR folders: GT, HR"),
        (["HR/a.png", "LR/a.png", "LRx2/a.png"], ["{}"], ConfigError, "several LR.*NAME=HR_DIR:"),
        (["HR/a.png", "HR/b.png", "LR/a.png"], ["{}"], DataError, r"1 HR .* without LR \(b.png\)"),
        (["HR/a.png", "LR/ax2.png", "LR/a.png"], ["{}"], DataError, "1 ambiguous"),
        (["HR/a.png", "LR/a.png"], ["{}"], DataError, "LR is 4x4, but HR 4x4 / 2 makes 2x2"),
        (["s/HR/a.png", "t/s/a.png"], ["{}/s", "{}/t/s"], ConfigError, "two sets are called s"),
        (["a.png"], ["=x"], ConfigError, "no NAME=PLACE"),
        (["a.png"], ["../up={}"], ConfigError, "no NAME=PLACE"),
    ],
)
def test_refused_sets(
    tmp_path: Path, files: list[str], words: list[str], error: type[SrtrainError], says: str
) -> None:
    touch(tmp_path, *[name for name in files if name.endswith("png")])
    with pytest.raises(error, match=says):
        open_sets([word.format(tmp_path) for word in words], scale=2)


# Models --------------------------------------------------------------------------------------


def runs(folder: Path) -> Path:
    """Empty files: names come before content."""
    for name in (
        "mse/2026-01-01_12-00-00/checkpoints/step-000002.ckpt",
        "mse/2026-01-01_12-00-00/checkpoints/step-000010.ckpt",
        "mse/2026-01-02_12-00-00/checkpoints/step-000002.ckpt",
        "mine/checkpoints/step-000002.ckpt",
        "net_x2.pth",
        "other/net_x2.pth",
        "a=1,b=2/checkpoints/step-000002.ckpt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    touch(folder, "made/baby.png", "BSRN/Set5/baby.png")
    return folder


@pytest.mark.parametrize(
    ("words", "names", "kinds"),
    [
        (["bicubic", "nearest"], ["bicubic", "nearest"], ["classic"] * 2),
        (["mine={}/net_x2.pth"], ["mine"], ["network"]),
        (["{}/net_x2.pth", "{}/other/net_x2.pth"], None, ["network"] * 2),
        (["{}/mse/2026-01-01_12-00-00"], ["mse"], ["network"]),
        (
            ["{}/mse/2026-01-01_12-00-00", "{}/mse/2026-01-02_12-00-00"],
            ["mse/2026-01-01_12-00-00", "mse/2026-01-02_12-00-00"],
            ["network"] * 2,
        ),
        (["{}/mine", "{}/mine/checkpoints/step-000002.ckpt"], ["mine", "mine/2"], ["network"] * 2),
        (["{}/a=1,b=2"], ["a=1,b=2"], ["network"]),
        (["{}/made"], ["made"], ["finished"]),
        (["{}/BSRN/Set5"], ["BSRN"], ["finished"]),  # not called as the set is
    ],
)
def test_names_of_models(
    tmp_path: Path, words: list[str], names: list[str] | None, kinds: list[str]
) -> None:
    given = [word.format(runs(tmp_path)) for word in words]
    found = name_models(given, sets=["Set5"], baseline=False)
    assert [model.kind for model in found] == kinds
    if names is None:
        names = [f"{tmp_path.name}/net_x2", "other/net_x2"]
    assert [model.name for model in found] == names


def test_every_checkpoint_and_the_baseline(tmp_path: Path) -> None:
    run = runs(tmp_path) / "mse" / "2026-01-01_12-00-00"
    found = name_models([str(run), "b=lanczos"], every_checkpoint=True)
    assert [model.name for model in found] == ["mse/2", "mse/10", "b", "bicubic"]
    assert [model.name for model in name_models(["mine=bicubic"])] == ["mine"]
    (tmp_path / "nearest").mkdir()
    for word in ("bicubic", str(run / "checkpoints" / "step-000002.ckpt")):
        with pytest.raises(ConfigError, match="no MODEL is a run folder · --every-checkpoint"):
            name_models([word], every_checkpoint=True)


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["{}/none.pth"], StorageError, "no such model.*none.pth"),
        (["bicubik"], StorageError, "did you mean bicubic"),
        (["bicubic", "bicubic"], ConfigError, "the same model twice · bicubic · give it once"),
        (["{0}/net_x2.pth"] * 2, ConfigError, "the same model twice · /.*/net_x2.pth · give"),
        (["{0}/net_x2.pth", "{0}/other/../net_x2.pth"], ConfigError, "twice · /[^.]*/net_x2.pth"),
        (
            ["a={}/net_x2.pth", "a={}/other/net_x2.pth"],
            ConfigError,
            "two models are called a · /.*/net_x2.pth, /.*/other/net_x2.pth · .*NAME=MODEL",
        ),
        (["{}/empty"], DataError, "neither checkpoints nor images"),
    ],
)
def test_refused_models(
    tmp_path: Path, words: list[str], error: type[SrtrainError], says: str
) -> None:
    runs(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=says):
        name_models([word.format(tmp_path) for word in words])


# Finished images -----------------------------------------------------------------------------


def data_of(*names: str, size: tuple[int, int] = (16, 24)) -> DataSet:
    return DataSet("Set", [Item(name, Path(f"{name}.png"), None, size, "") for name in names], "")


@pytest.mark.parametrize(
    ("hr", "files", "found"),
    [
        (["a", "b"], ["a.png", "b.jpg"], {"a": "a", "b": "b"}),
        (["a"], ["a_x4_mine.png"], {"a": "a_x4_mine"}),
        (["a"], ["ax2.png"], {"a": "ax2"}),
        (["a"], ["Set/a.png", "Other/a.png"], {"a": "a"}),
        (["i_1", "i_10"], ["i_1_SR.png", "i_10_SR.png"], {"i_1": "i_1_SR", "i_10": "i_10_SR"}),
        (["i", "i_1"], ["i_SR.png", "i_1_SR.png"], {"i": "i_SR", "i_1": "i_1_SR"}),
        (["i_HR"], ["i_SR.png"], {"i_HR": "i_SR"}),
        (["s/a", "t/a"], ["s/a.png", "t/a.png"], {"s/a": "a", "t/a": "a"}),
    ],
)
def test_finished_images_are_matched_by_stem(
    tmp_path: Path, hr: list[str], files: list[str], found: dict[str, str]
) -> None:
    images(tmp_path, *files)
    matched = match_finished(tmp_path, data_of(*hr), scale=2)
    assert {name: path.stem for name, path in matched.items()} == found


@pytest.mark.parametrize(
    ("hr", "files", "says"),
    [
        (["a", "b"], ["a.png"], r"no SR image of b \(1 of 2\)"),
        (["a"], ["a.png", "a_x4.png"], "several SR images of a: a.png and a_x4.png"),
        (["a"], ["a.png", "a.jpg"], "several SR images of a: a.jpg and a.png"),
        (["a"], ["ab.png"], "no SR image of a"),
    ],
)
def test_missing_and_ambiguous_images_are_refused(
    tmp_path: Path, hr: list[str], files: list[str], says: str
) -> None:
    images(tmp_path, *files)
    with pytest.raises(DataError, match=says):
        match_finished(tmp_path, data_of(*hr), scale=2)


def test_finished_images_of_another_size_are_refused(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    with pytest.raises(DataError, match="is 24x16, HR cut to a multiple of 2 is 12x8"):
        match_finished(tmp_path, data_of("a", size=(8, 12)), scale=2)


# The command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "error", "says"),
    [
        (["--features", "x.pth"], ConfigError, "--features needs a net"),
        (["--reference", "bicubik"], ConfigError, "no model is called bicubik.*mean bicubic"),
        (["--lpips", "squeeze", "--features", "no.pth"], StorageError, "set --features FILE$"),
        (["--dists", "no.pth"], StorageError, "no DISTS backbone"),
        (["--device", "tpu9"], ConfigError, "unknown device"),
        (["--scale", "3"], ConfigError, "enlarges 2 times, --scale is 3"),
        (["-o", "{}/set/out"], ConfigError, "OUT lies among the images of .*set"),
        (["-o", "{}/set/a.png"], ConfigError, "must be a folder"),
    ],
)
def test_refused_options(
    tmp_path: Path, extra: list[str], error: type[SrtrainError], says: str
) -> None:
    images(tmp_path / "set", "a.png")
    model = write_tiny(tmp_path)
    words = [str(model), "--scale", "2", "--data", str(tmp_path / "set"), "-o", str(tmp_path / "o")]
    with pytest.raises(error, match=says):
        main([*words, *(word.format(tmp_path) for word in extra)])
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--scale", "1"],
        ["--scale", "x"],
        ["--border", "-1"],
        ["--devices", "0"],
        ["--ssim", "matlab"],
        ["--sclae", "2"],
    ],
)
def test_malformed_options_end_with_2(words: list[str]) -> None:
    with pytest.raises(ConfigError) as told:
        main(["bicubic", "--scale", "2", "--data", "demo", "-o", "x", *words])
    assert "\n" not in str(told.value)
    assert " · srtrain evaluate · " in str(told.value)


def test_a_run_folder_is_its_newest_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    images(tmp_path / "set", "a.png")
    (model, _) = name_models([str(run)])
    assert (model.place, model.run) == (run, run)
