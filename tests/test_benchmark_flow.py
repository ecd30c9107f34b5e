"""The benchmarks of flows: that the bare arms do the flow's own arithmetic, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from srtrain.cli.benchmark import sampling
from srtrain.cli.benchmark.bare_flow import BareFlow
from srtrain.cli.benchmark.runs import network_words
from srtrain.cli.benchmark.workload import NETWORKS, Network
from srtrain.networks.flow import Flow
from tests.test_benchmark import options_of
from tests.training import draw_sets, words

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ("generator=flow_lite", "generator.velocity.channels=8", "generator.velocity.blocks=1")


@pytest.mark.parametrize("with_mean", [False, True])
def test_the_bare_step_moves_velocities_alone(with_mean: bool, tmp_path: Path) -> None:
    images = draw_sets(tmp_path / "images")
    _, _, drawn = network_words("pmrf", tmp_path, 2)
    bare = BareFlow(words(images, tmp_path, "experiment=pmrf", *SMALL, drawn), mean=with_mean)
    asked: list[torch.Size] = []
    bare.flow.frozen.register_forward_hook(lambda *given: asked.append(given[2].shape))
    before = {name: value.clone() for name, value in bare.flow.state_dict().items()}
    for _ in range(2):
        bare.step()
    assert asked == [torch.Size((4, 3, 16, 16))] * (2 * with_mean)
    moved = {
        name.split(".")[0]
        for name, value in bare.flow.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"velocity"}
    assert bare.flops > 0
    (seen, t), target = bare.batches[0]
    # On the line to hr: what is seen, moved on by what is left of the way, is an image.
    end = seen + (1 - t.view(-1, 1, 1, 1)) * target
    assert float(end.min()) >= -1e-5
    assert float(end.max()) <= 1 + 1e-5


def test_samples_are_measured_beside_the_velocities_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        NETWORKS, "pmrf", Network(("experiment=pmrf", *SMALL), flow=True, mean=True)
    )
    asked: list[int] = []
    sample = Flow.sample

    def noted(self: Flow, *given: object, **options: object) -> torch.Tensor:
        asked.append(1)
        return sample(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Flow, "sample", noted)
    line = "--networks pmrf --images 1x16x16 --samples 3 --steps 2 --rounds 1 --device cpu"
    seconds, cpu = sampling.measure(options_of(sampling, line)).tables
    names = [sampling.BARE, sampling.WITH_MEAN, sampling.SAMPLES, sampling.FILES]
    for table in (seconds, cpu):
        assert [arm.name for arm in table.arms] == names
        assert table.base == sampling.BARE
        assert all(len(arm.rounds) == 1 and arm.rounds[0] >= 0 for arm in table.arms)
    assert "2 steps, over 1.00 times the pixels" in seconds.arms[0].note
    assert asked  # the last two arms sample
