"""The command line itself: dispatch, exit codes, sweeps, completion; training is a stand-in."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import srtrain.cli
from srtrain.cli.main import main
from srtrain.errors import DataError, DivergedError, PreemptedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Finished


class Train:
    """Stands in for ``srtrain.cli.train``: remembers its runs, fails where told to."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.failures: dict[int, Exception | KeyboardInterrupt] = {}

    def run(self, config: Any, **asked: Any) -> float:  # noqa: ANN401
        self.runs.append({"config": config, **asked})
        if config.seed in self.failures:
            raise self.failures[config.seed]
        return 1.0


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    monkeypatch.chdir(tmp_path)
    stand_in = Train()
    resume = types.SimpleNamespace(run_dir=lambda config, experiment: Path("outputs") / experiment)
    for name, module in {"train": stand_in, "resume": resume}.items():
        monkeypatch.setitem(sys.modules, f"srtrain.cli.{name}", module)
        monkeypatch.setattr(srtrain.cli, name, module, raising=False)
    monkeypatch.setitem(os.environ, "HYDRA_FULL_ERROR", "1")
    return stand_in


def test_one_run(train: Train) -> None:
    assert main(["experiment=l1", "seed=3"]) == 0
    (run,) = train.runs
    assert run["experiment"] == "l1"
    assert run["argv"] == ("experiment=l1", "seed=3", "budget=demo")
    assert run["choices"]["loss"] == "l1"
    assert run["config"].seed == 3
    assert list(Path.cwd().iterdir()) == []  # Hydra leaves nothing behind


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DivergedError("loss is nan", where="step 3"), 5, "srtrain: error: loss is nan · step 3"),
        (PreemptedError("saved"), 75, "srtrain: error: saved"),
        (KeyboardInterrupt(), 130, "srtrain: interrupted"),
        (RuntimeError("boom\nmore"), 1, "srtrain: error: RuntimeError: boom · "),
    ],
)
def test_exit_codes(
    train: Train,
    capsys: pytest.CaptureFixture[str],
    error: Exception | KeyboardInterrupt,
    code: int,
    line: str,
) -> None:
    train.failures[1] = error
    assert main(["experiment=mse", "run_dir=here"]) == code
    told = capsys.readouterr().err
    assert told.startswith(line)
    ends = [line.partition(" -m ")[2] for line in told.splitlines()[1:]]
    assert ends == (["srtrain experiment=mse run_dir=here"] if code == 75 else [])
    log = Path("here/error.log")
    assert log.exists() == (code == 1)
    if log.exists():
        assert str(log.absolute()) in told
        assert "Traceback" in log.read_text(encoding="utf-8")


def test_what_a_constructor_says_is_about_the_configuration(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    from hydra.errors import InstantiationException

    wrong = InstantiationException("Error in call to target 'my.Net':\nwidth\nfull_key: generator")
    train.failures[1] = wrong
    assert main(["experiment=mse"]) == 2
    assert capsys.readouterr().err.startswith("srtrain: error: Error in call to target 'my.Net'")
    wrong.__cause__ = DataError("no images", where="data.train")
    assert main(["experiment=mse"]) == 3
    assert capsys.readouterr().err == "srtrain: error: no images · data.train\n"


def test_verbose_shows_the_traceback(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train.failures[1] = DivergedError("loss is nan")
    assert main(["experiment=mse", "verbose=true"]) == 5
    assert "Traceback" in capsys.readouterr().err


def test_words_that_are_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infre"]) == 2
    assert capsys.readouterr().err == (
        "srtrain: error: unknown command infre · command line · did you mean infer?\n"
    )
    assert main(["--mutlirun"]) == 2
    assert main(["--version"]) == 0
    assert main([]) == 0
    assert "Usage" in capsys.readouterr().out


def test_cfg_prints_what_a_run_would_get(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=mse", "scale=2", "--cfg"]) == 0
    assert "\nscale: 2\n" in capsys.readouterr().out


def test_a_sweep_runs_every_combination(train: Train, tmp_path: Path) -> None:
    own = tmp_path / "own" / "optimizer"
    own.mkdir(parents=True)
    (own / "sgd.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.1\n", encoding="utf-8")
    words = ["-m", "--config-dir=own", "experiment=mse,l1", "seed=range(1,3)", "optimizer=sgd"]
    assert main(words) == 0
    seen = [(run["experiment"], run["config"].seed, run["config"].run_dir) for run in train.runs]
    assert seen == [
        ("mse", 1, "outputs/mse_0"),
        ("mse", 2, "outputs/mse_1"),
        ("l1", 1, "outputs/l1_2"),
        ("l1", 2, "outputs/l1_3"),
    ]
    assert f"--config-dir={tmp_path}/own" in train.runs[0]["argv"]
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_sweep_is_checked_before_it_starts(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "experiment=mse,l11", "scael=3"]) == 2
    assert train.runs == []
    assert "did you mean experiment=l1?" in (told := capsys.readouterr().err)
    assert told.count("did you mean scale?") == 1


def test_a_failed_job_is_the_sweeps_exit_code(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train.failures[2] = DivergedError("loss is nan")
    assert main(["-m", "experiment=mse", "seed=1,2,3"]) == 5
    assert len(train.runs) == 3
    assert capsys.readouterr().err.count("loss is nan") == 1


def test_preemption_ends_a_sweep(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train.failures[2] = PreemptedError("saved")
    assert main(["-m", "experiment=mse", "seed=1,2,3"]) == 75
    assert len(train.runs) == 2
    told = capsys.readouterr()
    assert [row.split()[:4] for row in told.out.splitlines() if "outputs/" in row] == [
        ["0", "seed=1", "1.00", "done"],
        ["1", "seed=2", "-", "saved"],
    ]
    words = "--multirun experiment=mse seed=1,2,3 run_dir=outputs/mse"
    assert told.err.splitlines()[-1].endswith(f" -m srtrain {words}")


def test_an_unknown_launcher(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "experiment=mse", "seed=1,2", "hydra/launcher=joblibb"]) == 2
    assert "srtrain[sweep]" in capsys.readouterr().err
    assert train.runs == []


def test_completion(run_srtrain: Callable[..., Finished]) -> None:
    line = {"COMP_LINE": "srtrain experiment=ms", "COMP_POINT": "21"}
    done = run_srtrain("-sc", "query=bash", env=line)
    assert "experiment=mse" in done.stdout.split()
    assert done.rc == 0
