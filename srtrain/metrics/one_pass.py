"""PSNR, SSIM, energies and spectra of Y and RGB together, from one pass over the pixels.

All in float64: a variance is the small difference of large numbers, and in float32 SSIM misses by
up to 1e-4 where noise lies on a bright flat ground. The speed comes from elsewhere:

* Bands of a few rows go through all steps while they lie in the processor's cache.
* The Gaussian is a banded matrix, so that a blur is a matrix product of small blocks, four times
  as fast as eleven shifted sums.
* Whole gray levels have exact sums of squares, so that errors, energies and means of all channels,
  and of Y, which is linear in them, follow from one table of scalar products.
* The energy above a frequency is all of it, which the pixels tell, less that below: of the cosine
  transform only the low coefficients are computed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from srtrain.checks import image_batch, same_shape
from srtrain.color import LUMA, LUMA_BLACK
from srtrain.metrics.frequency import HighBand, low_count, low_rows
from srtrain.metrics.quality import C1, C2, WINDOW, gaussian

TOP = 255.0
REACH = WINDOW - 1
BLOCK = 16  # outputs of one block of the blur: with 8 or 32 it is a third slower
CACHED = 16 * 1024  # pixels of a band on a CPU; half or twice as many cost the same
BAND = 2**19  # elsewhere, where few large steps are best: 230 MB
SR, HR, PRODUCT, SQUARES = (slice(first, first + 4) for first in range(0, 16, 4))  # of R G B Y
BOTH, PLANES = slice(0, 8), 16


class Found(NamedTuple):
    """Per image, float64 (B,); images as in [0, 1]."""

    psnr_y: Tensor
    ssim_y: Tensor
    psnr_rgb: Tensor
    ssim_rgb: Tensor
    energy_gap: Tensor  # Σ(hr² - sr²) over all values
    squared_error: Tensor
    bias: Tensor
    band: HighBand  # of Y


def compare(sr: Tensor, hr: Tensor, *, scale: int) -> Found:
    """What ``quality``, ``mean_meter`` and ``frequency`` find of the same images, to 1e-9.

    Y is BT.601's studio luma; of an image whose HR is gray, the same in full range, which is HR
    itself. Nothing is fetched from the device.

    Shapes: sr, hr (B, 3, H, W), whole gray levels from 0 to 255 in a floating-point type.
    Raises: ValueError if shapes differ, or for images smaller than SSIM's window.
    """
    same_shape(sr, hr)
    image_batch(sr, "sr")
    if min(sr.shape[-2:]) < WINDOW or sr.shape[1] != 3:
        raise ValueError(
            f"expected 3 channels and at least {WINDOW} x {WINDOW} pixels, got {tuple(sr.shape)}"
        )
    pass_ = _Pass(*sr.shape[-2:], scale=scale, device=sr.device)
    images = [pass_.over(*pair) for pair in zip(sr, hr, strict=True)]
    sums = _Sums(*(torch.stack(column) for column in zip(*images, strict=True)))
    return _found(sums, sr[0, 0].numel())


class _Sums(NamedTuple):
    """Of one image, over its pixels: all that the figures are made of."""

    luma: Tensor  # (3,) weights of Y
    products: Tensor  # (8, 8) of the planes of SR and HR
    values: Tensor  # (8,)
    high: Tensor  # (2, 2) of Y's high band
    similarity: Tensor  # (4,) of R G B Y


def _found(sums: _Sums, pixels: int) -> Found:
    """Shapes: of ``sums``, as there, with a batch before."""
    luma, products, values, high, similarity = sums
    of_sr, of_hr, mixed = products[:, :3, :3], products[:, 4:7, 4:7], products[:, :3, 4:7]
    errors = of_sr + of_hr - mixed - mixed.mT  # exact: all are whole numbers below 2^53
    squared, gap = _trace(errors), _trace(of_hr) - _trace(of_sr)
    high = high / (pixels * TOP**2)
    return Found(
        psnr_y=_psnr(torch.einsum("bi,bij,bj->b", luma, errors, luma) / pixels),
        ssim_y=similarity[:, 3],
        psnr_rgb=_psnr(squared / (3 * pixels)),
        ssim_rgb=similarity[:, :3].mean(dim=1),
        energy_gap=gap / TOP**2,
        squared_error=squared / TOP**2,
        bias=(values[:, :3].sum(dim=1) - values[:, 4:7].sum(dim=1)) / (3 * pixels * TOP),
        band=HighBand(high[:, 0, 0].clamp_min(0), high[:, 1, 1].clamp_min(0), high[:, 0, 1]),
    )


def _psnr(mean_squared: Tensor) -> Tensor:
    return -10 * (mean_squared / TOP**2).log10()


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(dim=1)


class _Pass:
    """The workspace for images of one size, band after band; fresh memory would cost as much."""

    def __init__(self, height: int, width: int, *, scale: int, device: torch.device) -> None:
        def empty(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.height, self.width, self.scale = height, width, scale
        self.across = -(-(width - REACH) // BLOCK)  # blocks; the last reaches into zeros
        padded = self.across * BLOCK + REACH
        pixels = CACHED if device.type == "cpu" else BAND
        self.down = min(-(-(height - REACH) // BLOCK), max(2, pixels // (BLOCK * padded)))
        rows = self.down * BLOCK
        self.planes = empty(rows + REACH, PLANES, padded)
        self.tall = empty(self.down, BLOCK, PLANES * padded)
        self.blurred = empty(self.across, rows * PLANES, BLOCK)
        self.above, self.below = empty(2, self.across, rows, 4, BLOCK)
        self.low = empty(height, 2, low_count(width, scale))
        taps = gaussian(device)
        self.blur = empty(BLOCK, BLOCK + REACH)
        for row in range(BLOCK):
            self.blur[row, row : row + WINDOW] = taps
        self.weights = torch.tensor(LUMA, dtype=torch.float64, device=device)

    def over(self, sr: Tensor, hr: Tensor) -> _Sums:
        """One image. Shapes: sr, hr (3, H, W) levels."""
        gray = (hr[1:] == hr[:1]).all()
        luma = self.weights / torch.where(gray, sum(LUMA), TOP)
        black = torch.where(gray, 0.0, LUMA_BLACK).double()
        # Any constants: the high band has no mean, and the smaller the rest, the more exact it is.
        ground = torch.stack([sr[:, 0, 0], hr[:, 0, 0]]).double() @ luma + black
        products, values, energy, similarity = (
            luma.new_zeros(shape) for shape in ((8, 8), (8,), (2, 2), (4,))
        )
        step, last = self.down * BLOCK, self.height - REACH
        for top in range(0, last, step):
            rows = min(step, last - top)
            window = slice(top, top + rows + REACH)
            planes = self._load(sr[:, window], hr[:, window], luma, black)
            own = planes if top + rows == last else planes[:rows]
            y = own[:, 3::4] - ground[:, None]
            products += (own @ own.mT).sum(dim=0)
            values += own.sum(dim=(0, 2))
            energy += (y @ y.mT).sum(dim=0)
            self.low[top : top + len(own)] = low_rows(y, low_count(self.width, self.scale))
            similarity += self._similarity(rows)
        low = low_rows(self.low.permute(1, 2, 0), low_count(self.height, self.scale)).flatten(1)
        windows = last * (self.width - REACH)
        return _Sums(luma, products, values, energy - low @ low.mT, similarity / windows)

    def _load(self, sr: Tensor, hr: Tensor, luma: Tensor, black: Tensor) -> Tensor:
        """Fill the planes with a band; returns those of SR and HR. Shapes: -> (rows, 8, W)."""
        planes = self.planes[: sr.shape[1], :, : self.width]
        both = planes[:, BOTH].unflatten(1, (2, 4))
        both[:, 0, :3], both[:, 1, :3] = sr.transpose(0, 1), hr.transpose(0, 1)
        red, green, blue, y = both.unbind(dim=2)
        torch.addcmul(black, red, luma[0], out=y)
        y.addcmul_(green, luma[1]).addcmul_(blue, luma[2])
        of_sr, of_hr = planes[:, SR], planes[:, HR]
        torch.mul(of_sr, of_hr, out=planes[:, PRODUCT])
        torch.mul(of_sr, of_sr, out=planes[:, SQUARES]).addcmul_(of_hr, of_hr)
        return planes[:, BOTH]

    def _similarity(self, rows: int) -> Tensor:
        """The SSIM map of R G B Y, summed over ``rows`` rows of windows.

        With a = E[sr] E[hr], b = E[sr]² + E[hr]² and half the constants above, it is
        ``4 (a + C1/2) (E[sr hr] - a + C2/2) / ((b + C1) (E[sr² + hr²] - b + C2))``.
        """
        down, size = -(-rows // BLOCK), BLOCK + REACH
        high, (_, _, padded) = down * BLOCK, self.planes.shape
        bands = self.planes.as_strided(
            (down, size, PLANES * padded), (BLOCK * PLANES * padded, PLANES * padded, 1)
        )
        tall = torch.bmm(self.blur.expand(down, -1, -1), bands, out=self.tall[:down])
        columns = tall.as_strided((self.across, high * PLANES, size), (BLOCK, padded, 1))
        blurred = torch.bmm(columns, self.blur.mT.expand(self.across, -1, -1))
        maps = blurred.view(self.across, high, PLANES, BLOCK)
        sr, hr, product, squares = (maps[:, :, of] for of in (SR, HR, PRODUCT, SQUARES))
        first, second = C1 * TOP**2, C2 * TOP**2
        above, below = self.above[:, :high], self.below[:, :high]
        torch.mul(sr, hr, out=above)
        product.sub_(above).add_(second / 2).mul_(above.add_(first / 2))
        torch.mul(sr, sr, out=below).addcmul_(hr, hr)
        squares.sub_(below).add_(second).mul_(below.add_(first))
        torch.div(product, squares, out=above)
        # Beyond these rows and the last columns lies another band, or zeros.
        above[-1, ..., self.width - REACH - (self.across - 1) * BLOCK :] = 0
        total: Tensor = 4 * above[:, :rows].sum(dim=(0, 1, 3))
        return total
