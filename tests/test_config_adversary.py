"""The adversary in the configuration: what a discriminator brings along, and what is refused."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from hydra.utils import get_object

from srtrain.config.facts import Facts
from srtrain.config.preflight import prepare
from srtrain.config.problems import RefusedError
from srtrain.config.rules import check_rules
from srtrain.config.rules_adversary import MODEL, PATCHGAN, UNET, patchgan_field
from srtrain.networks.discriminators.patchgan import PatchGAN
from tests.test_config_rules import GOOD, changed

if TYPE_CHECKING:
    from pathlib import Path

OBJECTIVE = "srtrain.losses.adversarial."
ON: dict[str, Any] = {
    "discriminator": {"_target_": PATCHGAN, "n_layers": 3, "norm": "spectral"},
    "objective": {"_target_": f"{OBJECTIVE}Vanilla"},
    "discriminator_optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-4},
    "model": {"_target_": MODEL, "warmup_share": 0.0},
    "loss.weights.adversarial": 1e-3,
}
WITHOUT = {key: value for key, value in ON.items() if key != "discriminator"}


def problems(changes: dict[str, Any]) -> list[str]:
    found = list(check_rules(Facts(changed(GOOD, deepcopy(changes)), {}, {})))
    assert all(problem.exit_code == 2 for problem in found)
    return [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"objective": ON["objective"]},
            "objective=… needs a discriminator · objective · add disc",
        ),
        ({"discriminator_optimizer": {"_target_": "torch.optim.Adam"}}, "needs a discriminator"),
        ({"model": ON["model"]}, "model=… needs a discriminator"),
        ({"loss.weights.adversarial": 0.1}, "loss.weights.adversarial=0.1 without a discriminator"),
        ({**ON, "loss.weights.adversarial": 0}, "does not hear: loss.weights.adversarial=0"),
        ({**ON, "objective": {}}, "choose objective=vanilla | lsgan | hinge | wgan_gp | ragan"),
        ({**ON, "discriminator_optimizer": {}}, "choose discriminator_optimizer=adam | adamw"),
        ({**ON, "model": {}}, "a discriminator, but model=none"),
        (
            {**ON, "data.hr_patch_size": 64},
            "judges 70×70 px, the crop is 64×64 · data.hr_patch_size · choose "
            "data.hr_patch_size=72 or more, or discriminator.n_layers=2",  # a multiple of the scale
        ),
        (
            {**ON, "discriminator.n_layers": 5},
            "data.hr_patch_size=288 or more, or discriminator.n_layers=4",
        ),
        ({**ON, "data.hr_patch_size": 12}, "choose data.hr_patch_size=72 or more"),
        ({**ON, "discriminator": {"_target_": UNET}, "data.hr_patch_size": 180}, "e.g. 176"),
        (
            {**ON, "discriminator": {"_target_": "V", "input_size": 96}},
            "input_size=96, the crop is 192×192",
        ),
        (
            {**ON, "discriminator": {"_target_": "V", "input_size": 16}, "data.hr_patch_size": 16},
            "choose 32 or more",
        ),
        (
            {
                **ON,
                "objective": {"_target_": f"{OBJECTIVE}Wasserstein"},
                "discriminator.norm": "batch",
            },
            "WGAN-GP bounds the gradient of single images; batch norm mixes them · "
            "discriminator.norm · choose discriminator.norm=instance | none",
        ),
        (
            {**ON, "objective.r1_gamma": 1.0, "discriminator.norm": "batch"},
            "R1 bounds the gradient of single images; batch norm mixes them",
        ),
        (
            {**ON, "objective": {"_target_": f"{OBJECTIVE}Wasserstein", "gradient_penalty": 10.0}},
            "spectral norm holds them down: two bounds at odds · discriminator.norm · choose "
            "discriminator.norm=instance | none; or objective.gradient_penalty=0",
        ),
        (
            {
                **ON,
                "objective": {"_target_": f"{OBJECTIVE}Wasserstein"},
                "discriminator": {"_target_": UNET},
            },
            "at odds · discriminator · choose discriminator=patchgan | vgg",
        ),
        (
            {
                **ON,
                "objective": {"_target_": f"{OBJECTIVE}RelativisticAverage"},
                "trainer.accumulate": 2,
            },
            "trainer.accumulate=2 splits it · trainer.accumulate · choose trainer.accumulate=1",
        ),
        ({**ON, "loss.weights.adversarial": -1.0}, "loss.weights.adversarial cannot be -1.0"),
        (
            {**ON, "model.warmup_share": 1.0},
            "model.warmup_share cannot be 1.0 · model.warmup_share · choose 0 to below 1",
        ),
        ({**ON, "model.warmup_share": 1.5}, "model.warmup_share cannot be 1.5"),
        (
            {**ON, "model.warmup_share": 0.1, "loss.schedule": {"pixel": {"start": 5}}},
            "without pixel* terms",
        ),
        (
            {**ON, "model.warmup_share": 0.1, "loss.weights.pixel": 0.0},
            "give loss.weights.pixel a value",
        ),
        ({"loss.schedule.pixel_l1.start": 5}, "loss.schedule.pixel_l1 of a term whose weight is 0"),
        ({"loss.schedule.pixel.ramp": -5}, "loss.schedule.pixel.ramp cannot be -5"),
        (
            {
                "loss.terms.perceptual_own": {
                    "_target_": "srtrain.losses.perceptual.Perceptual",
                    "taps": "vgg45",
                },
                "loss.weights.perceptual_own": 0.0,
            },
            "unknown tap set 'vgg45' · loss.terms.perceptual_own.taps · did you mean "
            "loss.terms.perceptual_own.taps=vgg54?",
        ),
        (
            {
                "loss.head._target_": "srtrain.networks.heads.Quantiles",
                "generator._target_": "spandrel.architectures.Compact.Compact",
            },
            "loss.head needs more output maps than Compact gives · loss.head · generator=edsr_lite",
        ),
    ],
)
def test_refused(changes: dict[str, Any], said: str) -> None:
    (problem,) = problems(changes)
    assert said in problem


@pytest.mark.parametrize(
    "changes",
    [
        ON,
        {**ON, "discriminator": {"_target_": UNET}, "data.hr_patch_size": 96},
        {
            **ON,
            "objective": {"_target_": f"{OBJECTIVE}Wasserstein", "gradient_penalty": 10.0},
            "discriminator.norm": "none",
        },
        {**ON, "objective": {"_target_": f"{OBJECTIVE}Wasserstein", "gradient_penalty": 0}},
        {**ON, "objective.r1_gamma": 1.0},
        {**ON, "objective.r1_gamma": 0.0, "discriminator.norm": "batch"},
        {**ON, "objective": {"_target_": f"{OBJECTIVE}RelativisticAverage"}},
        {**ON, "trainer.accumulate": 2},
        {**ON, "loss.schedule.adversarial.start": 100, "loss.schedule.adversarial.ramp": 50},
        {
            "loss.head._target_": "srtrain.networks.heads.Quantiles",
            "generator._target_": "srtrain.networks.edsr.EDSRLite",
        },
    ],
)
def test_passed(changes: dict[str, Any]) -> None:
    assert problems(changes) == []


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_the_patch_known_before_torch_is_the_networks(n_layers: int) -> None:
    assert patchgan_field(n_layers) == PatchGAN(n_layers=n_layers).receptive_field


def test_the_model_that_is_checked_for_is_the_one_that_trains() -> None:
    assert get_object(MODEL).__name__ == "AdversarialSR"
    assert get_object(PATCHGAN) is PatchGAN
    assert get_object(UNET).__name__ == "UNet"


ADVERSARY = ("discriminator", "objective", "discriminator_optimizer", "model")
OFF = ("none", "none", "none", "supervised")


@pytest.mark.parametrize(
    ("words", "chosen", "weight", "generator"),
    [
        (["experiment=mse"], OFF, 0, "edsr_lite"),
        (["experiment=mse", "discriminator=none"], OFF, 0, "edsr_lite"),
        (
            ["experiment=mse", "discriminator=patchgan"],  # small budgets take the small form
            ("patchgan_lite", "vanilla", "adam", "adversarial"),
            1e-3,
            "edsr_lite",
        ),
        (
            ["discriminator=vgg_lite", "objective=hinge", "discriminator_optimizer=adamw"],
            ("vgg_lite", "hinge", "adamw", "adversarial"),
            1e-3,
            "edsr_lite",
        ),
        (
            ["experiment=esrgan", "budget=smoke"],
            ("patchgan_fine", "ragan", "adam", "adversarial"),
            4e-3,
            "edsr_lite",
        ),
        (
            ["experiment=esrgan", "budget=paper"],
            ("vgg", "ragan", "adam", "adversarial"),
            5e-3,
            "rrdb",
        ),
        (
            ["experiment=esrgan", "discriminator=vgg", "loss.weights.adversarial=0.01"],
            ("vgg_lite", "ragan", "adam", "adversarial"),
            0.01,
            "edsr_lite",
        ),
        (["experiment=esrgan", "discriminator=none"], OFF, 0, "edsr_lite"),
        (["experiment=edsr_baseline", "budget=smoke"], OFF, 0, "edsr"),
    ],
)
def test_what_a_discriminator_brings_along(
    words: list[str], chosen: tuple[str, ...], weight: float, generator: str
) -> None:
    run = prepare(words)
    assert tuple(run.choices[group] for group in ADVERSARY) == chosen
    assert run.config.loss.weights.adversarial == weight
    assert run.choices["generator"] == generator
    assert prepare(run.argv).config == run.config  # what ranks and continued runs are given


@pytest.mark.parametrize(
    "words",
    [
        ["objective=hinge"],
        ["discriminator_optimizer=adam", "budget=smoke"],
        ["experiment=patchgan", "discriminator=none", "objective=hinge"],
    ],
    ids=" ".join,
)
def test_half_an_adversary_on_the_command_line(words: list[str]) -> None:
    with pytest.raises(RefusedError, match="needs a discriminator"):
        prepare(words)


def test_what_an_experiment_sets_of_its_adversary_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - override /discriminator: patchgan\n"
        "  - override /objective: hinge\ndiscriminator: {base_channels: 16}\n"
        "objective: {r1_gamma: 1.0}\nmodel: {warmup_share: 0.2, clip_norm: 2.0}\n"
        "discriminator_optimizer: {lr: 1e-4}\n"
        "loss: {weights: {adversarial: 0.1}, schedule: {adversarial: {start: 5}}}\n",
        encoding="utf-8",
    )
    with_it = prepare(["experiment=mine"], config_dirs=[tmp_path])
    assert with_it.choices["discriminator"] == "patchgan_lite"
    assert with_it.config.model.warmup_share == 0.2
    without = prepare(["experiment=mine", "discriminator=none"], config_dirs=[tmp_path]).config
    plain = prepare(["experiment=mse", "model.clip_norm=2.0"]).config
    assert without == plain


@pytest.mark.parametrize(
    ("word", "weight"),
    [
        ("", 0.002),
        ("loss.terms.perceptual.features=imagenet", 0.00615),
        ("loss.weights.perceptual=2", 2),
    ],
)
def test_a_published_coefficient_is_of_the_published_features(word: str, weight: float) -> None:
    words = ["experiment=srgan", "budget=smoke", *([word] if word else [])]
    assert prepare(words).config.loss.weights.perceptual == weight


@pytest.mark.parametrize(("word", "crop"), [("", 64), ("loss.weights.pixel=0", None)])
def test_without_pixels_the_features_see_the_whole_patch(word: str, crop: int | None) -> None:
    words = ["experiment=perceptual_led", *([word] if word else [])]
    assert prepare(words).config.loss.terms.perceptual.crop == crop


def test_typos_and_bad_combinations_are_told_together() -> None:
    words = {
        "discriminator=patchgn": "did you mean discriminator=patchgan?",
        "objective=hinje": "did you mean objective=hinge?",
        "loss.schedule.adversarial.strt=5": "did you mean loss.schedule.adversarial.start?",
        "loss.schedule.adversaral.start=5": "did you mean loss.schedule.adversarial?",
        "loss.schedule.fft.ramp=5": "loss.schedule.fft of a term whose weight is 0",
        "loss.schedule.pixel.ramp=soon": "expected a whole number",
        "loss.terms.perceptual.taps=vgg45": "did you mean vgg54?",
        "loss.weights.adversarial=0.1": "loss.weights.adversarial=0.1 without a discriminator",
    }
    with pytest.raises(RefusedError) as caught:
        prepare(list(words))
    told = [str(problem) for problem in caught.value.problems]
    for word, said in words.items():
        assert sum(said in line for line in told) == 1, (word, told)
    assert len(told) == len(words)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.warmupshare=0.1", "did you mean model.warmup_share?"),
        ("model.adaptve=true", "did you mean model.adaptive?"),
        ("model.adaptive=perhaps", "expected true or false"),
        ("discriminator.nlayers=2", "did you mean discriminator.n_layers?"),
        ("discriminator.norm=spectrl", "did you mean spectral?"),
        ("objective.r1gamma=2", "did you mean objective.r1_gamma?"),
        ("discriminator_optimizer.lrr=2", "did you mean discriminator_optimizer.lr?"),
        ("model.target={_target_: srtrain.degradation.sharpen.UMS}", "there is no srtrain"),
        ("loss.head={_target_: srtrain.networks.heads.Quantiles, taus_: [1]}", "loss.head.taus?"),
    ],
)
def test_typos_in_the_keys_of_a_discriminator(word: str, said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        prepare(["discriminator=patchgan", word])
    assert sum(said in str(problem) for problem in caught.value.problems) == 1
