"""``srtrain benchmark host`` on few steps: what it says, not how fast anything is."""

from __future__ import annotations

import os

import pytest
from torch import Tensor

from srtrain.cli.benchmark import host
from srtrain.training.loop import NVML
from tests.test_benchmark import options_of


@pytest.mark.filterwarnings("ignore:.*`srun` command is available:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Total length of `list`:UserWarning")
def test_each_loop_takes_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "WARM", 1)
    monkeypatch.setenv(NVML, "1")
    forward, asked = host.Gain.forward, []

    def seen(net: host.Gain, image: Tensor) -> Tensor:
        asked.append(os.environ[NVML])
        return forward(net, image)

    monkeypatch.setattr(host.Gain, "forward", seen)
    report = host.measure(options_of(host, "--rounds 1 --steps 3 --device cpu"))
    assert len(asked) >= 3 * 3
    assert set(asked) == {"0"}  # Adam asks for GPUs in the same way in all
    beyond, whole = report.tables
    assert [arm.name for arm in whole.arms] == [host.EMPTY, host.OWN, host.EMA]
    costs = {arm.name: arm.rounds for arm in whole.arms}
    assert all(len(found) == 1 and found[0] > 0 for found in costs.values())
    for arm in beyond.arms:
        assert arm.rounds == [costs[arm.name][0] - costs[host.EMPTY][0]]
