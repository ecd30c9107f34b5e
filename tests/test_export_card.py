"""What is told beside an exported file, also where the checkpoint is a stranger's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from safetensors import safe_open

from srtrain.inference.export import card as cards
from srtrain.inference.export.about import plain
from srtrain.inference.export.card import Source, added, licence_of, licensed, use
from srtrain.networks.exported import packed
from tests.test_export import LITE, export, fresh, saved

if TYPE_CHECKING:
    from pathlib import Path

TO = ("--to", "safetensors", "-o")


# Where it goes -------------------------------------------------------------------------------

NAMES = {
    "above": ("../traversed", "_traversed"),
    "elsewhere": ("/tmp/srtrain/owned", "_tmp_srtrain_owned"),
    "a folder": ("a/b", "a_b"),
    "hidden": (".. ", "_"),
    "colours": ("\x1b[31mred", "_31mred"),
    "no text": ("\udc80", "_"),
    "a list": (["a", "/b"], "_a_b_"),
    "long": ("é" * 300, "é" * 100),
}


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("case", NAMES)
def test_a_checkpoint_names_no_other_folder(case: str, exported: bool, tmp_path: Path) -> None:
    experiment, stem = NAMES[case]
    source, out = tmp_path / "in" / "model.ckpt", tmp_path / "out" / "deep"
    out.mkdir(parents=True)
    if exported and case != "no text":  # JSON in a header is text
        source = source.with_suffix(".safetensors")
        source.parent.mkdir()
        about = {"generator": dict(LITE), "scale": 2, "experiment": experiment}
        source.write_bytes(packed(fresh(LITE).net.state_dict(), about))
    else:
        saved(source, fresh(LITE), experiment=experiment)
    export(source, *TO, str(out))
    whole = {path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "in"}
    name = stem if case == "long" else f"{stem}_EDSRLite_x2"
    assert whole == {out / f"{name}.safetensors", out / f"{name}.md"}


# What it says --------------------------------------------------------------------------------

LOOP: list[object] = []
LOOP += [LOOP, LOOP]
ODD: dict[str, dict[str, Any]] = {
    "config": {"config": "text"},
    "nodes": {"config": {"data": 3, "optimizer": "Adam", "scheduler": ["x"], "degradation": 1}},
    "data": {"data": "text", "config": {"data": {"train": 3, "batch_size": {}}}},
    "kwargs": {"config": {"optimizer": {"_target_": 3, "kwargs": "x"}}},
    "reached": {"reached": "text"},
    "sets": {"reached": {"val": {"Set5": 3}, "bicubic": 4}},
    "figures": {"reached": {"val": {"Set5": {"psnr": "x"}}, "bicubic": {"Set5": [1]}}},
    "loss": {"reached": {"loss": {"weights": {"pixel": "x"}, "features": "y"}, "seconds": "z"}},
    "start": {"config": {"init_from": {"path": 3}}},
    "protocol": {"reached": {"val": {"a": {"psnr": 1.0}}}, "protocol": [1]},
    "large": {"step": 2**70, "reached": {"seconds": 2**70}},
    "not a number": {"experiment": float("nan"), "version": float("inf"), "step": True},
    "a loop": {"config": {"data": {"train": LOOP}}},
    "keys": {"config": {3: 4, "data": {("a", 1): 2}}},
}


@pytest.mark.parametrize("case", ODD)
def test_a_checkpoint_that_says_anything_is_exported(case: str, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "step-7.ckpt", fresh(LITE), **ODD[case])
    export(checkpoint, *TO, str(tmp_path / "a.safetensors"))
    assert "| training |" in (tmp_path / "a.md").read_text()
    assert (tmp_path / "a.safetensors").exists()


STARTS = {
    "/home/user/secret/r1": "r1",
    "../run two/": "run two",
    "/secret/r1/checkpoints/step-000020.ckpt": "r1/checkpoints/step-000020.ckpt",
    "/secret/theirs.pth": "theirs.pth",
    ".": ".",
}


@pytest.mark.parametrize("path", STARTS)
def test_the_card_names_what_training_started_from(path: str, tmp_path: Path) -> None:
    config = {"init_from": {"path": path, "partial": False}}
    export(
        saved(tmp_path / "s.ckpt", fresh(LITE), config=config), *TO, str(tmp_path / "a.safetensors")
    )
    text = tmp_path / "a.md"
    assert f"| started from | `{STARTS[path]}`: its steps, data and lic" in text.read_text()
    assert "secret" not in text.read_text()


@pytest.mark.parametrize("begin", [{}, {"path": None}, {"path": ""}])
def test_fresh_weights_started_from_nothing(begin: dict[str, Any]) -> None:
    about = {"step": 7, "config": {"init_from": begin}}
    text = cards.card("a.onnx", fresh(LITE), Source("s", "0", about), licence="", file="")
    assert "started from" not in text


def test_what_is_said_is_text_of_bounded_size() -> None:
    said = plain({"a": "x\x1b[2J\ny", "b": LOOP, "c": [1] * 10**6, "d": object(), 5: 6})
    assert said["a"] == "x\ufffd[2J y"
    assert len(str(said)) < 10**6
    assert plain([1, 2]) == plain(None) == {}
    assert plain({"a": (1, 2.5, None, True)}) == {"a": [1, 2.5, None, True]}


def test_without_a_card_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cards, "card", full)
    export(
        saved(tmp_path / "in" / "s.ckpt", fresh(LITE)), *TO, str(tmp_path / "a.safetensors"), code=4
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# More than one file --------------------------------------------------------------------------

CARD = """---
library_name: srtrain
license: other
license_name: "Mine"
---

| | |
| licence | Mine |

## Files

- `a.onnx`, 1 kB, sha256 `0`: x
- `a.safetensors`, 2 kB, sha256 `1`: y

My own words.
"""


def test_a_file_has_one_line_and_other_lines_stay() -> None:
    assert added(CARD, "- `a.onnx`, 3 kB: z") == CARD.replace(
        "- `a.onnx`, 1 kB, sha256 `0`: x\n", ""
    ).replace("y\n", "y\n- `a.onnx`, 3 kB: z\n")
    assert added(CARD, "- `b.onnx`, 3 kB: z") == CARD.replace("y\n", "y\n- `b.onnx`, 3 kB: z\n")
    emptied = CARD.partition("- `")[0]
    assert added(emptied, "- `b.onnx`, 3 kB: z").endswith("## Files\n\n- `b.onnx`, 3 kB: z\n")


def test_what_people_wrote_into_a_card_stays(tmp_path: Path) -> None:
    checkpoint, path = saved(tmp_path / "step-7.ckpt", fresh(LITE)), tmp_path / "a.safetensors"
    export(checkpoint, *TO, str(path))
    card = path.with_suffix(".md")
    mine = card.read_text() + "- `a.onnx`, 1 kB, sha256 `0`: x\n\nMy own words.\n"
    card.write_text(mine)
    export(checkpoint, *TO, str(path), "--precision", "fp16", "--overwrite")
    more = card.read_text().splitlines()
    assert [line for line in mine.splitlines() if line not in more] == [
        line for line in mine.splitlines() if line.startswith("- `a.safetensors`")
    ]
    assert sum(line.startswith("- `a.safetensors`") for line in more) == 1


SNIPPETS = {
    "a b.safetensors": 'load_model("a b.safetensors").upscale(image)',
    "a b.onnx": 'onnxruntime.InferenceSession("a b.onnx")',
}


@pytest.mark.parametrize("first", SNIPPETS)
def test_the_card_shows_how_to_use_the_files_there_are(first: str) -> None:
    (second,) = set(SNIPPETS) - {first}
    model = fresh(LITE)
    text = cards.card(first, model, Source("s.ckpt", "0", {}), licence="", file=f"- `{first}`, 1 B")
    assert SNIPPETS[first] in text
    assert second not in text
    assert "FILE" not in text
    both = added(text, f"- `{second}`, 2 B", use=use(second, 2))
    assert [both.count(it) for it in SNIPPETS.values()] == [1, 1]
    assert both.endswith(f"```\n\n## Files\n\n- `{first}`, 1 B\n- `{second}`, 2 B\n")
    again = added(both, f"- `{first}`, 3 B", use=use(first, 2))
    assert again.split("## Files")[0] == both.split("## Files")[0]


LICENCES: dict[str, tuple[list[str], list[str], int, str]] = {
    "none": ([], [], 0, ""),
    "stated later": ([], ["--licence", "mit"], 0, "mit"),
    "kept": (["--licence", "mit"], [], 0, "mit"),
    "the same": (["--licence", "A | B"], ["--licence", "A | B"], 0, "A | B"),
    "another": (["--licence", "mit"], ["--licence", "CC BY 4.0"], 2, "mit"),
    "replaced": (["--licence", "mit"], ["--licence", "CC BY 4.0", "--overwrite"], 0, "CC BY 4.0"),
}


@pytest.mark.parametrize("case", LICENCES)
def test_card_and_files_say_one_licence(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, code, licence = LICENCES[case]
    checkpoint, path = saved(tmp_path / "step-7.ckpt", fresh(LITE)), tmp_path / "a.safetensors"
    export(checkpoint, *TO, str(path), *first)
    path.unlink()
    export(checkpoint, *TO, str(path), *second, code=code)
    card = path.with_suffix(".md").read_text()
    assert licence_of(card) == licence
    named = {"mit": "license: mit\n", "": "image\n", "A | B": 'license_name: "A | B"\n'}
    assert named.get(licence, 'license_name: "CC BY 4.0"\n') in card.split("---")[1]
    assert card.count("license:") == bool(licence)
    if code:
        assert "the card beside it says mit of the licence" in capsys.readouterr().err
        assert not path.exists()
        return
    with safe_open(path, "pt") as file:
        header = file.metadata()["srtrain"]
    assert ('"licence"' in header) == bool(licence)
    assert licence in header


def test_another_licence_replaces_both_that_hubs_and_people_read() -> None:
    changed = licensed(CARD, "mit", overwrite=True)
    wanted = CARD.replace('license: other\nlicense_name: "Mine"', "license: mit")
    assert changed == wanted.replace("| licence | Mine |", "| licence | mit |")
