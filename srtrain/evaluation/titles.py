"""What each metric is called in tables and figures, how it is written, and which way is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

Better = Literal["higher", "lower", "near 0", "near 1", ""]
"""Empty: neither way is better by itself."""


class Title(NamedTuple):
    """``form`` is a format of one value; ``about`` a sentence for people who meet it first."""

    name: str
    form: str
    better: Better
    about: str


_PSNR = "peak signal-to-noise ratio"
_SSIM = "structural similarity, 1 for equal images"
_LPIPS = "perceptual distance, 0 for equal images"
_PAIRS = "LPIPS between two samples, mean of all pairs"
_NTIRE = "how much nearer to HR the best pixels of all samples are than the best sample [%]"
_LR = "PSNR of the SR image made small again against LR: what contradicts the input"
TITLES = {
    "psnr_y": Title("PSNR-Y", "{:.3f}", "higher", f"{_PSNR} of luma [dB]"),
    "ssim_y": Title("SSIM-Y", "{:.4f}", "higher", f"{_SSIM}, of luma"),
    "psnr_rgb": Title("PSNR-RGB", "{:.3f}", "higher", f"{_PSNR} of all channels [dB]"),
    "ssim_rgb": Title("SSIM-RGB", "{:.4f}", "higher", f"{_SSIM}, mean of channels"),
    "lpips_squeeze": Title("LPIPS-sq", "{:.4f}", "lower", f"{_LPIPS} (SqueezeNet)"),
    "lpips_alex": Title("LPIPS-alex", "{:.4f}", "lower", f"{_LPIPS} (AlexNet)"),
    "lpips_vgg": Title("LPIPS-vgg", "{:.4f}", "lower", f"{_LPIPS} (VGG16)"),
    "dists": Title("DISTS", "{:.4f}", "lower", "distance of structure and texture (VGG16)"),
    "lr_psnr": Title("LR-PSNR", "{:.2f}", "higher", _LR + " [dB]"),
    "lr_psnr_bicubic": Title("LR-PSNR-bic", "{:.2f}", "", "as LR-PSNR, where LR is no bicubic"),
    "rtm": Title(
        "rtm", "{:.3f}", "", "energy missing ÷ MSE: 1 is the mean of all plausible images"
    ),
    "hf_ratio": Title("hf_ratio", "{:.3f}", "near 1", "energy above the LR Nyquist, SR ÷ HR"),
    "hf_truth": Title("hf_truth", "{:.3f}", "higher", "correlation of SR and HR up there"),
    "bias": Title("bias", "{:+.5f}", "near 0", "mean of SR less mean of HR"),
    "sample_std": Title(
        "std", "{:.2f}", "", "standard deviation of the samples, mean over values [of 255]"
    ),
    "sample_lpips_squeeze": Title("pairs-sq", "{:.4f}", "", f"{_PAIRS} (SqueezeNet)"),
    "sample_lpips_alex": Title("pairs-alex", "{:.4f}", "", f"{_PAIRS} (AlexNet)"),
    "sample_lpips_vgg": Title("pairs-vgg", "{:.4f}", "", f"{_PAIRS} (VGG16)"),
    "ntire_diversity": Title("NTIRE", "{:.2f}", "higher", f"NTIRE 2021's score: {_NTIRE}"),
    "ntire_diversity_squeeze": Title("NTIRE-sq", "{:.2f}", "higher", f"{_NTIRE} (SqueezeNet)"),
    "ntire_diversity_vgg": Title("NTIRE-vgg", "{:.2f}", "higher", f"{_NTIRE} (VGG16)"),
    "ntire_diversity_mse": Title("NTIRE-mse", "{:.2f}", "higher", f"{_NTIRE} (squared error)"),
    "coverage": Title("coverage", "{:.3f}", "", "HR's values between the samples' extremes"),
    "coverage_90": Title("cover-90", "{:.3f}", "", "HR's values in the samples' 90 % band"),
    "spread_error": Title(
        "spread~err", "{:.3f}", "higher", "rank correlation of the samples' spread and error"
    ),
    "mean_of_n_psnr": Title(
        "mean-RGB", "{:.3f}", "higher", f"{_PSNR} of the samples' mean, all channels [dB]"
    ),
    "law": Title(
        "law", "{:.3f}", "near 1", "MSE of the samples' mean ÷ (half a sample's · (1 + 1/N))"
    ),
    "law_to_mean": Title(
        "law/f", "{:.3f}", "near 1", "MSE of the samples' mean ÷ (that of the mean f · (1 + 1/N))"
    ),
    "orthogonality": Title(
        "orth", "{:.3f}", "near 1", "(MSE of a sample - MSE of f) ÷ their squared distance"
    ),
    "cost_db": Title(
        "cost", "{:.2f}", "", "PSNR of f less PSNR of a sample [dB]: 3.01 of an exact sampler"
    ),
}
OF_SAMPLES = tuple(TITLES)[tuple(TITLES).index("sample_std") :]
"""What many images of one LR tell together."""


def title(metric: str) -> Title:
    """Of a metric or its variant: ``psnr_y_border0`` is named and judged as ``psnr_y`` is."""
    if metric in TITLES:
        return TITLES[metric]
    base = max((name for name in TITLES if metric.startswith(f"{name}_")), key=len, default="")
    if not base:
        return Title(metric, "{:.4g}", "", "")
    own = TITLES[base]
    return own._replace(name=f"{own.name} {metric[len(base) + 1 :]}")


def ordered(metrics: Iterable[str]) -> list[str]:
    """As ``TITLES`` has them, variants with their own; others last. All tables read alike."""
    known = list(TITLES)

    def place(metric: str) -> int:
        fitting = [name for name in known if f"{metric}_".startswith(f"{name}_")]
        return known.index(max(fitting, key=len)) if fitting else len(known)

    return sorted(metrics, key=place)
