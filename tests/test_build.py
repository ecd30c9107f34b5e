"""What is refused as configuration although only torch can tell; and what runs beside defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from srtrain.files import read_json
from srtrain.networks.storage import read_checkpoint
from tests.training import draw_sets, train, weights


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sets(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("scheduler.warmup_share=1", "warmup_share cannot be 1"),
        ("optimizer.betas=[0.9,1.5]", "beta"),
        ("trainer.accelerator=gpu", "there is no GPU"),
        ("trainer.cuda_graphs=true", "there is none"),
        ("loss.weights.ms_ssim=0.1", "MS-SSIM"),
    ],
)
def test_refused_before_work(
    word: str, said: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if ("gpu" in word or "cuda" in word) and torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    extra = ["data.hr_patch_size=8"] if "ms_ssim" in word else []
    if "cuda" in word:
        extra = ["trainer.compile=true", "trainer.accelerator=auto"]
    train(images, tmp_path / "refused", word, *extra, code=2)
    message = capsys.readouterr().err
    assert message.startswith("srtrain: error: ")
    assert said in message


@pytest.mark.parametrize(
    "extra",
    [
        ["optimizer=sgd"],
        ["optimizer=adamw", "scheduler=multistep"],
        ["scheduler=constant", "model.clip_norm=null"],
        ["trainer.precision=bf16"],
        ["logger=tensorboard"],
        ["loss.weights.fft=0.05", "loss.weights.gradient=0.1", "loss.weights.ssim=0.1"],
        pytest.param(["trainer.compile=true"], marks=pytest.mark.slow),
    ],
    ids=lambda extra: extra[0],
)
def test_choices_that_run(extra: list[str], images: Path, tmp_path: Path) -> None:
    folder = train(images, tmp_path / "run", *extra)
    assert read_json(folder.summary)["generator_steps"] == 6
    assert all(bool(value.isfinite().all()) for value in weights(folder, 6).values())


def test_init_from_a_smaller_scale(images: Path, tmp_path: Path) -> None:
    """x4 from x2: the body is copied, the tail is not."""
    small = train(images, tmp_path / "x2")
    file = small.checkpoints / "step-000006.ckpt"
    extra = ["scale=4", f"init_from={file}", "optimizer.lr=1e-30"]
    train(images, tmp_path / "refused", *extra, code=4)
    large = train(images, tmp_path / "x4", *extra, "init_from.partial=true")
    given = read_checkpoint(file)["state_dict"]
    taken = read_checkpoint(large.checkpoints / "step-000006.ckpt")["state_dict"]
    body = [name for name in given if name.startswith("body")]
    assert body
    for name in body:
        torch.testing.assert_close(taken[name], given[name], atol=1e-6, rtol=0)
