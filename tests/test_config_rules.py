"""Rules about combinations: what each refuses, and what it lets pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from srtrain.config.facts import Facts
from srtrain.config.rules import check_rules

if TYPE_CHECKING:
    from pathlib import Path

    from srtrain.errors import SrtrainError

GOOD: dict[str, Any] = {
    "scale": 4,
    "resume": "auto",
    "init_from": {"path": None},
    "data": {"batch_size": 16, "hr_patch_size": 192, "train": ["."], "val": None},
    "generator": {"scale": 4},
    "loss": {
        "role": "regulariser",
        "terms": {"pixel": {}, "pixel_l1": {}, "perceptual": {"features": "embedded"}},
        "weights": {"pixel": 1.0, "pixel_l1": 0.0, "perceptual": 0.0},
    },
    "trainer": {"max_steps": 1, "devices": 1, "num_nodes": 1, "accumulate": 1, "strategy": "ddp"},
    "metrics": {"lpips": {"net": None, "features": None}},
}


BICUBIC = {"degradation._target_": "srtrain.degradation.resize.Bicubic"}
PAIRED = {
    "data._target_": "srtrain.data.build.paired_data",
    "data.train": {"hr": ".", "lr": "."},
}
GRAPHS = {"trainer.cuda_graphs": True, "trainer.compile": True}
LDL = {"loss.terms.ldl": {"_target_": "srtrain.losses.ldl.LDL"}, "loss.weights.ldl": 1.0}


def changed(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    tree = {key: changed(v, {}) if isinstance(v, dict) else v for key, v in tree.items()}
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def problems(
    changes: dict[str, Any], choices: dict[str, str] | None = None, **environ: str
) -> list[SrtrainError]:
    return list(check_rules(Facts(changed(GOOD, changes), choices or {}, environ)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainer.max_steps": 0}, "trainer.max_steps cannot be 0 · trainer.max_steps · choose 1"),
        ({"scale": 9, "generator.scale": 9, "data.hr_patch_size": 90}, "choose 1 to 8"),
        ({"optimizer.lr": 0.0}, "choose above 0"),
        ({"callbacks.ema.decay": 1.5}, "choose 0 to 1"),
        ({"loss.weights.pixel": -1.0, "loss.weights.pixel_l1": 1.0}, "cannot be -1.0"),
        ({"loss.weights.pixel_l1": float("nan")}, "cannot be nan"),
        ({"loss.weights.pixel_l1": float("inf")}, "cannot be inf"),
        ({"loss.weights.pixel": 0.0}, "no loss: all weights are 0"),
        ({"loss.weights.pixl": 1.0}, "did you mean loss.weights.pixel?"),
        ({"loss.terms.mine": {}}, "the term mine has no weight"),
        ({"loss.weights.perceptual": 0.01}, "1.00% of the pixel weights' 1;"),
        ({"loss.weights.perceptual": 0.5}, "50.00% of the pixel weights' 1; a regulariser stays"),
        (
            {"loss.terms.perceptual_lpips": {}, "loss.weights.perceptual_lpips": 0.1},
            "1; a regulariser stays below 1% · loss.weights.perceptual_lpips · keep it below 0.01",
        ),
        (
            {
                "loss.terms.perceptual_lpips": {},
                "loss.weights.perceptual_lpips": 0.1,
                "loss.weights.perceptual": 0.1,
            },
            "loss.weights.perceptual, loss.weights.perceptual_lpips · keep their sum below 0.01",
        ),
        (
            {"loss.weights.perceptual": 0.001, "loss.weights.pixel": 0.0},
            "no pixel term to regularise",
        ),
        (
            {
                "loss.terms.texture": {"_target_": "srtrain.losses.perceptual.Perceptual"},
                "loss.weights.texture": 0.0,
            },
            "name it perceptual_texture",
        ),
        ({"trainer.accumulate": 3}, "choose a multiple of 3"),
        ({"trainer.devices": 3}, "cannot be split over 3 ranks × 1"),
        ({"trainer.devices": 2, "trainer.strategy": "single"}, "2 devices but one process"),
        ({"data.hr_patch_size": 190}, "not a multiple of scale=4 · data.hr_patch_size · e.g. 192"),
        ({"generator.scale": 2}, "generator.scale=2 but scale=4"),
        ({"metrics.lpips.features": "."}, "features of no net"),
        ({"checkpoint.floor.psnr_y": "high"}, "checkpoint.floor.psnr_y cannot be 'high'"),
        ({"checkpoint.keep_best": 0}, "checkpoint.keep_best cannot be 0"),
        ({"model.augment.mixup": 1.5}, "choose 0 to 1"),
        ({"model.augment.cutblur": 0.5, **BICUBIC}, "changes nothing where LR is bicubic"),
        (
            {"model.augment.cutblur": 0.5, **PAIRED, "data.lr_is_bicubic": True},
            "leave model.augment.cutblur at 0",
        ),
        ({"trainer.cuda_graphs": True}, "add trainer.compile=true"),
        ({**GRAPHS, "trainer.accelerator": "cpu"}, "CUDA graphs need a GPU"),
        ({**LDL, "callbacks.ema": None}, "ldl compares with the averaged weights"),
        ({**LDL, "callbacks.ema": None}, "keep callbacks.ema, or loss.weights.ldl=0"),
    ],
)
def test_refused(changes: dict[str, Any], said: str) -> None:
    (problem,) = problems(changes)
    assert said in str(problem)
    assert problem.exit_code == 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss.weights.perceptual": 0.0099},
        {"loss.weights.perceptual": 0.019, "loss.weights.pixel_l1": 1.0},  # of both pixel terms
        {"loss.weights.perceptual": 1.0, "loss.role": "perceptual_led"},
        {"trainer.devices": 2, "trainer.accumulate": 4},
        {"data.batch_size": "wrong types are told elsewhere", "scale": None},
        {"model.augment.cutblur": 0.5, "degradation._target_": "another.Degradation"},
        {"model.augment.cutblur": 0.5, **BICUBIC, **PAIRED},
        {**LDL, "callbacks.ema": {"decay": 0.999}},
        GRAPHS,
    ],
)
def test_passed(changes: dict[str, Any]) -> None:
    assert problems(changes) == []


FOUR_ON_TWO = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("changes", "environ", "said"),
    [
        ({}, {"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2, but trainer.devices × trainer.num"),
        ({"trainer.devices": 2}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, "= 2 × 1"),
        ({"trainer.devices": 1, "trainer.num_nodes": 4}, FOUR_ON_TWO,
         "SLURM_NTASKS=4 on 2 nodes, but trainer.devices × trainer.num_nodes = 1 × 4"),
        ({"trainer.devices": 4}, FOUR_ON_TWO, "set trainer.devices=2 trainer.num_nodes=2"),
        ({"trainer.num_nodes": 3}, {**FOUR_ON_TWO, "SLURM_NNODES": "3"}, "--ntasks-per-node=N"),
        ({"trainer.strategy": "single", "trainer.devices": 2}, {"WORLD_SIZE": "2", "RANK": "0"},
         "add trainer=ddp"),
    ],
)  # fmt: skip
def test_ranks_given_and_asked_for_disagree(
    changes: dict[str, Any], environ: dict[str, str], said: str
) -> None:
    (problem,) = problems(changes, **environ)
    assert said in str(problem)
    assert problem.exit_code == 2


def test_ranks_given_are_those_asked_for() -> None:
    assert problems({"trainer.devices": 2}, WORLD_SIZE="2", RANK="0") == []
    assert problems({"trainer.devices": 2}, SLURM_NTASKS="2", SLURM_PROCID="0") == []
    assert problems({"trainer.devices": 2, "trainer.num_nodes": 2}, **FOUR_ON_TWO) == []
    assert problems({}, SLURM_NTASKS="3") == []  # an interactive allocation, not srun


def test_only_data_demo_goes_without_budget() -> None:
    (problem,) = problems({}, {"budget": "unset", "data": "folder"})
    assert "data=folder needs a budget" in str(problem)
    resumed = Facts(GOOD, {"budget": "unset"}, {}, resumed=True)
    assert list(check_rules(resumed)) == []


FOLDER = {"data._target_": "srtrain.data.build.folder_data"}


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({**FOLDER, "data.train": "/no/hr"}, 3, "no such folder: /no/hr · data.train"),
        ({**FOLDER, "data.train": [".", {"path": "/no/hr", "repeat": 2}]}, 3, "/no/hr"),
        ({"data.val": {"Set5": "/no/set5"}}, 3, "no such folder: /no/set5 · data.val"),
        ({"init_from.path": "/no/x.pth"}, 4, "no such file: /no/x.pth · init_from.path"),
        (
            {"loss.terms.perceptual.features": "imagnet", "loss.weights.perceptual": 0.001},
            4,
            "did you mean imagenet?",
        ),
        ({"resume": "atuo"}, 2, "did you mean resume=auto?"),
        ({"resume": "/no/run"}, 2, "auto | never | a run folder"),
        ({"resume": "/"}, 2, "there is no run to continue in /"),
    ],
)
def test_places_that_are_not_there(changes: dict[str, Any], code: int, said: str) -> None:
    (problem,) = problems(changes)
    assert said in str(problem)
    assert problem.exit_code == code


def test_places_that_are_there(tmp_path: Path) -> None:
    place = str(tmp_path)
    assert problems({**FOLDER, "data.train": [{"path": place}], "data.val": {"A": place}}) == []
    assert problems({"loss.terms.perceptual.features": "/not/used"}) == []


@pytest.mark.parametrize(
    ("source", "condition", "fits"),
    [
        ("mean", "none", True),
        ("mean", "mean", True),
        ("condition", "lr", True),
        ("condition", "mean", True),
        ("mean", "lr", False),
        ("noise", "lr", False),
        ("noise", "none", False),
    ],
)
@pytest.mark.parametrize("network", ["flow_bands.FlowBands", "flow_unet.FlowUNet"])
def test_bands_lie_around_what_is_told(
    network: str, source: str, condition: str, fits: bool
) -> None:
    flow = {
        "_target_": "srtrain.networks.flow.Flow",
        "source": source,
        "condition": condition,
        "velocity": {"_target_": f"srtrain.networks.{network}"},
    }
    found = [problem.where for problem in problems({"generator": flow})]
    blind = source == "noise" and condition == "none"
    assert ("generator.source" in found) == ("Bands" in network and not fits and not blind)
    assert ("generator.condition" in found) == blind
