"""The VGG-19 perceptual loss: the right layers, conventions, weights, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from srtrain import download as downloads
from srtrain.errors import ConfigError, StorageError
from srtrain.losses import features, precision
from srtrain.losses.features import EMBEDDED_CONVS, VGG19, VGG19Features, calibration_batch
from srtrain.losses.perceptual import TAP_SETS, Criterion, Perceptual
from srtrain.losses.precision import Precision, narrowed

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def torchvision_vgg() -> nn.Sequential:
    """Column E with random weights of He's size, so that deep activations do not vanish."""
    generator = torch.Generator().manual_seed(3)
    layers = make_layers(cfgs["E"]).requires_grad_(False)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)
    return layers


@pytest.fixture(scope="module")
def vgg_file(torchvision_vgg: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "random.pth"
    state = {f"features.{key}": value for key, value in torchvision_vgg.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, path)
    return path


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, 32, 32, generator=generator)
    return (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def test_layer_table_is_torchvisions(torchvision_vgg: nn.Sequential) -> None:
    convs = [conv for conv in VGG19.values() if conv]
    assert len(convs) == 16
    for conv in convs:
        layer = torchvision_vgg[conv.index]
        assert isinstance(layer, nn.Conv2d)
        assert (layer.in_channels, layer.out_channels) == (conv.inputs, conv.outputs)


# (tap set, [(last torchvision module that runs, weight)], criterion, ImageNet statistics):
# indices by hand from EDSR-PyTorch src/loss/vgg.py, BasicSR vgg_arch.py, pix2pixHD networks.py.
CONVENTIONS = [
    ("first5", [(end, 1 / 5) for end in (1, 3, 6, 8, 11)], F.mse_loss, True),
    ("vgg22", [(7, 1.0)], F.mse_loss, True),
    ("vgg54", [(34, 1.0)], F.mse_loss, True),
    ("esrgan", [(34, 1.0)], F.l1_loss, True),
    ("ldl", [(2, 0.1), (7, 0.1), (16, 1.0), (25, 1.0), (34, 1.0)], F.l1_loss, True),
    (
        "pix2pixhd",
        [(1, 1 / 32), (6, 1 / 16), (11, 1 / 8), (20, 1 / 4), (29, 1.0)],
        F.l1_loss,
        False,
    ),
    ("features5", [(4, 1.0)], F.mse_loss, True),
]


@pytest.mark.parametrize(("taps", "ends", "criterion", "imagenet"), CONVENTIONS)
def test_equals_torchvision(
    taps: str, ends: list[tuple[int, float]], criterion, imagenet: bool,  # noqa: ANN001
    torchvision_vgg: nn.Sequential, vgg_file: Path, images: tuple[Tensor, Tensor],
) -> None:  # fmt: skip
    sr, hr = images
    expected = torch.zeros(())
    for end, weight in ends:
        part = torchvision_vgg[: end + 1]
        a, b = (part((x - MEAN) / STD if imagenet else 2 * x - 1) for x in (sr, hr))
        expected += weight * criterion(a, b)
    loss = Perceptual(features=vgg_file, taps=taps, calibrated=False)
    torch.testing.assert_close(loss(sr, hr), expected, rtol=1e-4, atol=0)


def test_every_named_set_is_tested() -> None:
    assert {row[0] for row in CONVENTIONS} == set(TAP_SETS)


@pytest.mark.parametrize(("criterion", "power"), [("mse", 2), ("l1", 1)])
def test_each_tap_is_divided_by_its_size_on_the_calibration_batch(
    criterion: str, power: int, vgg_file: Path, images: tuple[Tensor, Tensor]
) -> None:
    loss = Perceptual(features=vgg_file, criterion=criterion)  # type: ignore[arg-type]
    taps = VGG19Features(vgg_file, taps=EMBEDDED_CONVS)
    sizes = taps(calibration_batch())
    sr, hr = taps(images[0]), taps(images[1])
    expected = sum(
        (sr[tap] - hr[tap]).abs().pow(power).mean() / sizes[tap].abs().pow(power).mean() / 5
        for tap in EMBEDDED_CONVS
    )
    torch.testing.assert_close(loss(*images), expected)


def test_calibration_makes_the_loss_free_of_the_weights_scale(
    torchvision_vgg: nn.Sequential, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """The Oxford weights' activations are hundreds of times larger; the loss must not be."""
    paths = []
    for factor in (1.0, 300.0):
        state = {f"features.{k}": v.clone() for k, v in torchvision_vgg[:11].state_dict().items()}
        state["features.0.weight"] *= factor
        for key in state:
            state[key] *= factor if key.endswith("bias") else 1
        paths.append(tmp_path / f"{factor}.safetensors")
        save_file({key: value.contiguous() for key, value in state.items()}, paths[-1])
    small, large = (Perceptual(features=path)(*images) for path in paths)
    torch.testing.assert_close(small, large, rtol=1e-4, atol=0)


def test_before_relu_can_be_asked_for(vgg_file: Path, images: tuple[Tensor, Tensor]) -> None:
    pre = VGG19Features(vgg_file, taps=["conv1_2", "conv2_1"], before_relu=True)(images[0])
    post = VGG19Features(vgg_file, taps=["conv1_2", "conv2_1"])(images[0])
    for tap in post:
        assert pre[tap].min() < 0
        torch.testing.assert_close(pre[tap].relu(), post[tap])


@pytest.mark.parametrize(
    ("taps", "convs"), [("first5", 5), ("vgg22", 4), ("features5", 2), ({"conv1_1": 1.0}, 1)]
)
def test_only_the_layers_needed_are_built(taps: str | dict[str, float], convs: int) -> None:
    loss = Perceptual(taps=taps)
    weights = [name for name, _ in loss.named_buffers() if name.endswith("_weight")]
    assert len(weights) == convs


def test_is_frozen_and_outside_every_state_dict() -> None:
    loss = Perceptual()
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []
    assert sum(b.numel() for n, b in loss.named_buffers() if "conv" in n) == 555_328


def test_zero_for_equal_images_and_gradient_for_sr_only(images: tuple[Tensor, Tensor]) -> None:
    sr, hr = (image.clone().requires_grad_() for image in images)
    loss = Perceptual()
    assert loss(hr, hr).item() == 0
    loss(sr, hr).backward()
    assert hr.grad is None
    assert sr.grad is not None
    assert (sr.grad != 0).float().mean() > 0.99


def test_gradient_is_the_difference_quotient(images: tuple[Tensor, Tensor]) -> None:
    sr, hr = (image[:1].double() for image in images)
    loss = Perceptual().double()
    direction = torch.randn(sr.shape, generator=torch.Generator().manual_seed(1)).double()
    sr.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(sr, hr), sr)
    step = 1e-6
    with torch.no_grad():
        change = loss(sr + step * direction, hr) - loss(sr - step * direction, hr)
    # A few of the many ReLUs and maxima switch within the step.
    torch.testing.assert_close((gradient * direction).sum(), change / (2 * step), rtol=2e-3, atol=0)


@pytest.mark.parametrize("criterion", ["mse", "l1"])
def test_gradients_lie_as_the_activations_do(criterion: Criterion) -> None:
    """Else every ReLU and pool on the way down walks across memory."""
    loss = Perceptual(criterion=criterion)
    made = torch.rand(2, 8, 6, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    target = torch.rand(2, 8, 6, 4)
    (gradient,) = torch.autograd.grad(loss._distance(made, target), made)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    difference = made.detach() - target
    expected = 2 * difference if criterion == "mse" else difference.sign()
    torch.testing.assert_close(gradient, expected / made.numel())


@pytest.mark.parametrize(
    ("device", "asked", "amx", "narrow"),
    [
        ("cpu", "fp32", True, False),
        ("cpu", "bf16", False, True),
        ("cpu", "auto", True, True),
        ("cpu", "auto", False, False),
        ("cuda", "auto", True, False),
        ("cuda", "bf16", False, True),
    ],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it(
    device: str, asked: Precision, amx: bool, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: amx)
    assert precision.narrows(torch.device(device), asked) is narrow


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize(
    ("asked", "amx", "inside"),
    [("fp32", True, False), ("bf16", False, True), ("auto", True, True), ("auto", False, None)],
)
def test_within_any_precision_the_one_asked_for(
    asked: Precision,
    amx: bool,
    inside: bool | None,
    outside: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``auto`` that gains nothing leaves it as it is."""
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: amx)
    image, cpu = torch.rand(2, 2), torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16, enabled=outside), narrowed(cpu, asked):
        narrow = (image @ image).dtype is torch.bfloat16
    assert narrow is (outside if inside is None else inside)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, True),  # AMD from Zen 4 on
        ({"amx_bf16": False, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_what_torch_says_of_the_cpu(
    told: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert precision.multiplies_bf16.__wrapped__() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert precision.multiplies_bf16.__wrapped__() is False


def test_features_in_bf16_point_the_same_way(images: tuple[Tensor, Tensor]) -> None:
    """To two digits; what is compared and what comes back is float32."""
    found = {}
    for asked in ("fp32", "bf16"):
        sr = images[0].clone().requires_grad_()
        loss = Perceptual(precision=asked)(sr, images[1])  # type: ignore[arg-type]
        loss.backward()
        found[asked] = loss.detach(), sr.grad
    (full, gradient), (narrow, other) = found["fp32"], found["bf16"]
    assert narrow.dtype == other.dtype == torch.float32
    torch.testing.assert_close(narrow, full, rtol=0.02, atol=0)
    assert not torch.equal(other, gradient)  # it was bf16 indeed
    assert F.cosine_similarity(other.flatten(), gradient.flatten(), dim=0) > 0.995


def test_crop_compares_the_centre(images: tuple[Tensor, Tensor]) -> None:
    sr, hr = images
    centre = (..., slice(8, 24), slice(8, 24))
    torch.testing.assert_close(Perceptual(crop=16)(sr, hr), Perceptual()(sr[centre], hr[centre]))
    torch.testing.assert_close(Perceptual(crop=99)(sr, hr), Perceptual()(sr, hr))


@pytest.mark.parametrize("zipped", [True, False])
def test_file_formats_agree(
    zipped: bool, torchvision_vgg: nn.Sequential, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """torchvision's own file is in torch's old format."""
    state = {f"features.{key}": value for key, value in torchvision_vgg[:11].state_dict().items()}
    torch.save(state, tmp_path / "vgg.pth", _use_new_zipfile_serialization=zipped)
    save_file(state, tmp_path / "vgg.safetensors")
    values = [
        Perceptual(features=tmp_path / name)(*images) for name in ("vgg.pth", "vgg.safetensors")
    ]
    assert values[0] == values[1]


def test_names_and_hashes_say_what_the_features_are(vgg_file: Path) -> None:
    assert Perceptual().features_name == "first5/procedural"
    loss = Perceptual(features=str(vgg_file))
    assert loss.features_name == "vgg19/random"
    assert loss.features_sha256 == features.sha256_of(vgg_file)


@pytest.mark.parametrize("taps", ["vgg54", "esrgan", "ldl", "pix2pixhd"])
def test_recipes_of_deeper_taps_use_the_embedded_first5_and_say_so(taps: str) -> None:
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 1, 3, 16, 16)
    embedded = Perceptual(taps=taps)
    assert embedded.features_name == f"first5/procedural (recipe: {taps})"
    torch.testing.assert_close(embedded(sr, hr), Perceptual()(sr, hr))


@pytest.mark.parametrize("taps", ["first5", "vgg22", "features5"])
def test_recipes_that_the_embedded_features_can_serve_stay_what_they_are(taps: str) -> None:
    assert Perceptual(taps=taps).features_name == "first5/procedural"


def test_a_file_that_lacks_a_recipes_layers_is_an_error() -> None:
    with pytest.raises(StorageError, match=r"features\.12\.weight \(conv3_2\) is missing"):
        Perceptual(taps="vgg54", features=features.EMBEDDED_FILE)


def test_embedded_features_refuse_own_taps_beyond_them() -> None:
    with pytest.raises(ConfigError, match=r"conv3_2, the embedded features end at conv3_1"):
        Perceptual(taps={"conv3_2": 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": "fist5"}, "unknown tap set 'fist5'.*first5, vgg22"),
        ({"taps": {"conv9_1": 1.0}}, r"unknown taps \['conv9_1'\]"),
        ({"taps": {}}, "unknown taps"),
        ({"criterion": "l2"}, "criterion='l2'.*mse or l1"),
        ({"precision": "fp16"}, "precision='fp16'"),
        ({"crop": 0}, "crop=0"),
    ],
)
def test_bad_options_are_configuration_errors(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Perceptual(**options)


def _without(key: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: _without("features.10.bias", s), r"features.10.bias \(conv3_1\) is missing"),
        (lambda s: s | {"features.5.weight": torch.zeros(128, 32, 3, 3)},
         r"features.5.weight \(conv2_1\) is \(128, 32, 3, 3\), expected \(128, 64, 3, 3\)"),
        (lambda s: s | {"features.0.bias": torch.full((64,), float("nan"))}, "NaN or infinity"),
        (lambda s: s | {"features.0.bias": "text"}, r"features.0.bias \(conv1_1\) is missing"),
        (lambda s: list(s.values()), r"features.0.weight \(conv1_1\) is missing"),
    ],
)  # fmt: skip
def test_wrong_files_are_storage_errors(edit, message: str, vgg_file: Path, tmp_path: Path) -> None:  # noqa: ANN001
    state = {f"features.{c.index}.{kind}": value for name, c in VGG19.items() if c and c.index < 11
             for kind, value in zip(("weight", "bias"), _random(c), strict=True)}  # fmt: skip
    path = tmp_path / "wrong.pth"
    torch.save(edit(state), path)
    with pytest.raises(StorageError, match=message):
        Perceptual(features=path)


def _random(conv: features.Conv) -> tuple[Tensor, Tensor]:
    return torch.zeros(conv.outputs, conv.inputs, 3, 3), torch.zeros(conv.outputs)


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a weights file", b"PK\x03\x04 cut"])
def test_unreadable_files_are_storage_errors(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError, match="not a readable weights file"):
        Perceptual(features=tmp_path / name)
    with pytest.raises(StorageError, match="no such features file"):
        Perceptual(features=tmp_path / "absent" / name)


def test_imagenet_missing_and_offline_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(url: str, target: Path, *, sha256: str, progress: bool = True) -> Path:
        raise StorageError("cannot reach the server", where=url)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(features, "download", offline)
    with pytest.raises(StorageError, match="srtrain fetch-weights vgg19") as caught:
        Perceptual(features="imagenet")
    assert caught.value.exit_code == 4
    assert str(tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth") in str(caught.value)


def test_imagenet_comes_from_torchs_cache(
    monkeypatch: pytest.MonkeyPatch, vgg_file: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path, url, digits = features.imagenet_file()
    assert (path.name, digits) == ("vgg19-dcbb9e9d.pth", "dcbb9e9d")
    assert url.endswith("/vgg19-dcbb9e9d.pth")
    path.parent.mkdir(parents=True)
    path.write_bytes(vgg_file.read_bytes())
    monkeypatch.setattr(downloads, "_matches", lambda *_: True)  # the test's file is random
    assert Perceptual(features="imagenet", taps="esrgan").features_name == "vgg19/imagenet"


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 1, 32, 32), "must be RGB"), ((1, 3, 3, 32), "at least 4 px to reach conv3_1")],
)
def test_wrong_images_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Perceptual()(torch.zeros(shape), torch.zeros(shape))


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="is `scale` right"):
        Perceptual()(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 8, 8))


def test_oxford_weights_load(shared: Path, images: tuple[Tensor, Tensor]) -> None:
    """Their activations reach hundreds; calibrated, the loss is near 1 for any features."""
    path = shared / "weights" / "vgg19_oxford_conv1_1-conv3_4.safetensors"
    assert 0.01 < Perceptual(features=path)(*images) < 10
    assert Perceptual(features=path, calibrated=False)(*images) > 100
    with pytest.raises(StorageError, match=r"conv4_1\) is missing"):
        Perceptual(features=path, taps="ldl")
