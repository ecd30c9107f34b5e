"""``srtrain fetch-weights`` against a server on loopback."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from srtrain.cli import fetch_weights
from srtrain.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    served = tmp_path / "server"
    served.mkdir()
    file = f"vgg19-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    (served / file).write_bytes(b"weights")
    (served / fetch_weights.WEIGHTS["lpips-alex"].file).write_bytes(b"something else")
    weights = fetch_weights.WEIGHTS["vgg19"]._replace(file=file)
    monkeypatch.setitem(fetch_weights.WEIGHTS, "vgg19", weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    handler = partial(_Handler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_lands_in_torch_cache(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch_weights.main(["vgg19", "--url", url]) == 0
    path = tmp_path / "torch/hub/checkpoints" / fetch_weights.WEIGHTS["vgg19"].file
    assert path.read_bytes() == b"weights"
    assert str(path) in capsys.readouterr().out


def test_to_another_folder(url: str, tmp_path: Path) -> None:
    fetch_weights.main(["vgg19", "--url", url, "--to", str(tmp_path / "here")])
    assert (tmp_path / "here" / fetch_weights.WEIGHTS["vgg19"].file).is_file()


def test_wrong_content_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="checksum"):
        fetch_weights.main(["lpips-alex", "--url", url, "--to", str(tmp_path / "here")])
    assert list((tmp_path / "here").iterdir()) == []


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="lpips-squeeze"):
        fetch_weights.main(["vgg91"])


@pytest.mark.parametrize("variables", [{}, {"TORCH_HOME": "/t"}, {"XDG_CACHE_HOME": "/x"}])
def test_the_cache_is_torchs(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(fetch_weights.torch_cache()) == f"{torch.hub.get_dir()}/checkpoints"


def test_names_are_torchvisions() -> None:
    import torchvision.models as models

    published = {
        "vgg19": models.VGG19_Weights,
        "lpips-squeeze": models.SqueezeNet1_1_Weights,
        "lpips-alex": models.AlexNet_Weights,
        "lpips-vgg": models.VGG16_Weights,
        "dists": models.VGG16_Weights,
    }
    for name, weights in published.items():
        url = weights.IMAGENET1K_V1.url
        assert url == f"{fetch_weights.URL}/{fetch_weights.WEIGHTS[name].file}"
