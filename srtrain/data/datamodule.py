"""The data of a run for Lightning: crops without end, and validation images once each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch.utils.data import DataLoader

from srtrain import ranks
from srtrain.data.cache import FORMAT, OnBad, open_images
from srtrain.data.check import check_opened, check_training_data
from srtrain.data.crops import TrainingCrops
from srtrain.data.report import UNREADABLE, Report, cut_line
from srtrain.data.resident import check_room, resident
from srtrain.data.sampler import EndlessBatches
from srtrain.data.upload import IMAGES, Arriving, Upload
from srtrain.data.whole import WholeImages
from srtrain.data.workers import EndlessLoader, as_is

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from srtrain.batch import Batch
    from srtrain.data.collection import Source
    from srtrain.data.imageset import ImageSet
    from srtrain.data.resident import Pixels, Residence

TRAIN = "train"
# Of HR in a batch of validation. A CPU is as fast on one image of 256 x 256 as on several.
BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**21}

log = logging.getLogger(__name__)


class SRData(lightning.LightningDataModule):
    """uint8 batches ``{hr, lr?, name, sample}``; sample k of a run depends on (seed, k) alone.

    Training resumes at ``trainer.global_step * batch_size``, so nothing of a loader is ever saved;
    the number of workers and of ranks changes nothing. Validation has one loader per set, whole
    images in batches of one size, shared among the ranks without padding (so ranks may have unequal
    numbers of batches: never reduce inside a validation step).

    ``batch_size`` is global: over all ranks and micro-batches. ``min_val_size``: what the metrics
    need on each side of a validation image, see `metrics.image_metrics.smallest_side`.

    Raises: ConfigError, DataError, StorageError as its parts do.
    """

    digest_format = FORMAT  # digests of another cannot be compared with these

    def __init__(
        self,
        *,
        train: Source,
        val: Mapping[str, Source],
        scale: int,
        hr_patch_size: int,
        batch_size: int,
        num_workers: int,
        seed: int,
        cache_dir: Path | None = None,
        accumulate: int = 1,
        min_val_size: int = 1,
        on_bad: OnBad = "error",
        lr_is_bicubic: bool = False,
        residence: Residence = "disk",
        progress: bool = True,
    ) -> None:
        super().__init__()
        if residence == "device" and num_workers:
            raise ValueError(f"num_workers={num_workers} cannot cut crops on the device, 0 can")
        self.train = train
        self.val = dict(val)
        self.scale = scale
        self.hr_patch_size = hr_patch_size
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.cache_dir = cache_dir
        self.accumulate = accumulate
        self.min_val_size = min_val_size
        self.on_bad: OnBad = on_bad
        self.lr_is_bicubic = lr_is_bicubic
        self.residence = residence
        self.progress = progress
        self.train_images: ImageSet | None = None
        self.val_images: dict[str, ImageSet] = {}
        self._reports: dict[str, Report] = {}
        self._prepared = False
        self._pixels: Pixels | None = None

    @property
    def val_names(self) -> list[str]:
        """Names of the validation sets, in the order of their loaders."""
        return list(self.val)

    @property
    def train_digest(self) -> str:
        """Hash of the training images' names and contents, wherever the files lie.

        Cheap once `prepare_data` has run; runs it otherwise.
        """
        self.prepare_data()
        assert self.train_images is not None
        return self.train_images.digest

    @property
    def val_digests(self) -> dict[str, str]:
        """The same of each validation set, by its name."""
        self.prepare_data()
        return {name: images.digest for name, images in self.val_images.items()}

    def prepare_data(self) -> None:
        """Check all images, decode those that are not in the cache; a second call does nothing.

        Says how many whole images, and pairs, lose rows or columns that make no LR pixel.

        Raises: DataError listing everything that is wrong.
        """
        if self._prepared:
            return
        report = check_training_data(
            self.train,
            self.val,
            scale=self.scale,
            hr_patch_size=self.hr_patch_size,
            min_val_size=self.min_val_size,
            lr_is_bicubic=self.lr_is_bicubic,
            list_damaged=self.on_bad == "error",
            cache_dir=self.cache_dir,
            progress=self.progress,
        )
        if self.on_bad == "skip":
            report.problems.pop(UNREADABLE, None)  # left out, counted, when the cache is built
        report.raise_if_any()
        self.setup()
        self._prepared = True
        if ranks.rank() == 0 and (line := cut_line(self._reports, scale=self.scale)):
            log.warning("%s", line)

    def setup(self, stage: str | None = None) -> None:
        """Map the decoded images into this process.

        Raises: DataError listing those that do not fit the scale, the patch or the metrics.
        """
        if stage in (None, "fit") and self.train_images is None:
            self.train_images = self._open(TRAIN, self.train, smallest=self.hr_patch_size)
        if not self.val_images:
            self.val_images = {
                name: self._open(f"val {name}", source, smallest=self.min_val_size)
                for name, source in self.val.items()
            }
        nowhere = self._pixels is None  # else they are in what was free
        if self.train_images is not None and self.trainer is not None and nowhere:
            check_room(self.train_images, self.residence, self._device())

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless, from the first sample that the run has not seen."""
        self.setup("fit")
        assert self.train_images is not None
        rank, world_size = self._rank()
        device = self._device()
        if self._pixels is None:
            self._pixels = resident(self.train_images, self.residence, device)
        done = self.trainer.global_step if self.trainer else 0
        return EndlessLoader(
            TrainingCrops(
                self.train_images,
                hr_patch_size=self.hr_patch_size,
                scale=self.scale,
                seed=self.seed,
                pixels=self._pixels,
            ),
            EndlessBatches(
                batch_size=self.batch_size,
                rank=rank,
                world_size=world_size,
                accumulate=self.accumulate,
                start_sample=done * self.batch_size,
            ),
            num_workers=self.num_workers,
            upload=Upload(device) if device.type == "cuda" else None,
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """One per set. The images are decoded already: workers would only cost their start."""
        self.setup("validate")
        rank, world_size = self._rank()
        device = self._device().type
        return [
            DataLoader(
                WholeImages(
                    images,
                    scale=self.scale,
                    pixels=BATCH_PIXELS.get(device, BATCH_PIXELS["cpu"]),
                    rank=rank,
                    world_size=world_size,
                ),
                batch_size=None,
                collate_fn=as_is,
                pin_memory=device == "cuda",
            )
            for images in self.val_images.values()
        ]

    def transfer_batch_to_device(
        self,
        batch: Any,  # noqa: ANN401 - Lightning's
        device: torch.device,
        dataloader_idx: int,
    ) -> dict[str, Any]:
        """The images: reading ``sample`` back would make every step wait for the last one's end.

        Lightning's own looks at each name, and costs a step 0.1 ms.
        """
        if isinstance(batch, Arriving):
            batch = batch.receive()
        images = {name: batch[name] for name in IMAGES if name in batch}
        moved = {name: image.to(device, non_blocking=True) for name, image in images.items()}
        return {**batch, **moved}

    def _open(self, name: str, source: Source, *, smallest: int) -> ImageSet:
        images = open_images(
            source, cache_dir=self.cache_dir, on_bad=self.on_bad, progress=self.progress
        )
        report = Report()
        check_opened(images, report, scale=self.scale, smallest=smallest)
        report.raise_if_any()
        if images.paired or name != TRAIN:  # crops of HR alone lie anywhere: nothing is cut
            self._reports[name] = report
        return images

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
