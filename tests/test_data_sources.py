from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from srtrain.data.pairs import match
from srtrain.data.sources import VAL_PHOTOS, Bundled, Concat, Folder, Paired, Synthetic
from srtrain.errors import ConfigError, DataError
from tests.data import folder_of, noise, save


def test_synthetic_is_a_function_of_its_seed() -> None:
    first, other = Synthetic(count=2, size=64, seed=1), Synthetic(count=2, size=64, seed=2)
    np.testing.assert_array_equal(
        first.decode(0)[0], Synthetic(count=9, size=64, seed=1).decode(0)[0]
    )
    assert (first.decode(0)[0] != other.decode(0)[0]).mean() > 0.5
    assert first.quick_key() != other.quick_key()


def test_bundled_photos_are_where_scikit_image_keeps_them() -> None:
    photos = Bundled()
    assert tuple(photos.names) == VAL_PHOTOS
    # sizes as documented by scikit-image: astronaut 512x512, chelsea 451x300 (width x height)
    assert photos.shapes(0) == ((512, 512),)
    assert photos.decode(1)[0].shape == (300, 451, 3)
    with pytest.raises(ConfigError, match="choose from astronaut"):
        Bundled(["astronot"])


def test_folder_names(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.png", "a/c.bmp", "ünïcode name.png"):
        save(tmp_path / name, noise(8, 8, 0))
    (tmp_path / "notes.txt").write_text("no image")
    ((files, repeat),) = Folder(tmp_path).collections()
    assert sorted(files.names) == ["a/c.bmp", "a/c.png", "b", "ünïcode name"]
    assert repeat == 1


@pytest.mark.parametrize(
    ("paths", "repeats", "expected"),
    [
        ("a", None, [("a", 1)]),
        (["a", {"path": "b", "repeat": 3}], None, [("a", 1), ("b", 3)]),
        (["a", Path("b")], [2, 1], [("a", 2), ("b", 1)]),
    ],
)
def test_folder_lists(paths: object, repeats: list[int] | None, expected: list[object]) -> None:
    found = Folder(paths, repeats).folders  # type: ignore[arg-type]
    assert [(str(path), times) for path, times in found] == expected


@pytest.mark.parametrize("paths", [[], [{"path": "a", "repeat": 0}], [{"path": "a", "times": 2}]])
def test_folder_lists_refused(paths: list[object]) -> None:
    with pytest.raises(ConfigError):
        Folder(paths)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_folders_without_images(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="folder") as caught:
        Folder(tmp_path / name).collections()
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("hr", "lr", "rows", "without_lr", "without_hr", "ambiguous"),
    [
        (["a.png"], ["a.png"], 1, [], [], 0),
        (["a.png"], ["ax4.jpg"], 1, [], [], 0),
        (["a.png"], ["a_x4.png"], 1, [], [], 0),
        (["d/a.png"], ["d/aX4.png"], 1, [], [], 0),
        (["a_HR.png"], ["a_LR.png"], 1, [], [], 0),
        (["a.png"], ["ax2.png"], 0, ["a.png"], ["ax2.png"], 0),  # another scale
        (["a.png", "ax4.png"], ["a.png", "ax4.png"], 2, [], [], 0),  # equal names come first
        (["a.png"], ["a.png", "ax4.png"], 0, [], [], 1),
        (["a.png", "a.jpg"], ["a.png"], 0, [], [], 1),
        (["a.png", "b.png"], ["a.png", "c.png"], 1, ["b.png"], ["c.png"], 0),
        (["d/a.png"], ["e/a.png"], 0, ["d/a.png"], ["e/a.png"], 0),
    ],
)
def test_matching(
    hr: list[str],
    lr: list[str],
    rows: int,
    without_lr: list[str],
    without_hr: list[str],
    ambiguous: int,
) -> None:
    above, below = Path("hr"), Path("lr")
    found = match(
        [above / name for name in hr], [below / name for name in lr], hr=above, lr=below, scale=4
    )
    assert len(found.rows) == rows
    assert found.without_lr == [above / name for name in without_lr]
    assert found.without_hr == [below / name for name in without_hr]
    assert len(found.ambiguous) == ambiguous


def test_paired_lists_what_does_not_match(tmp_path: Path) -> None:
    hr = folder_of(tmp_path / "hr", 3)
    lr = folder_of(tmp_path / "lr", 2, height=10, width=13)
    with pytest.raises(DataError, match=r"1 HR files without LR \(002.png\)"):
        Paired(hr, lr, scale=4).collections()


@pytest.mark.parametrize(
    ("height", "width", "problem"),
    [(10, 13, ""), (10, 12, "LR is 12x10, but HR 55x42 / 4 makes 13x10")],
)
def test_pair_sizes(tmp_path: Path, height: int, width: int, problem: str) -> None:
    hr = folder_of(tmp_path / "hr", 1, height=42, width=55)
    lr = folder_of(tmp_path / "lr", 1, height=height, width=width)
    ((pairs, _),) = Paired(hr, lr, scale=4).collections()
    if problem:
        with pytest.raises(DataError, match=problem):
            pairs.survey(0)
    else:
        assert pairs.survey(0).shapes == ((42, 55), (10, 13))


def test_concat_keeps_the_order(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hr", 1)
    parts = Concat(Synthetic(count=1, size=32), Folder([{"path": folder, "repeat": 2}]))
    assert [repeat for _, repeat in parts.collections()] == [1, 2]
