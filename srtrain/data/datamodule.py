"""The data of a run for Lightning: crops without end, and validation images once each."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import lightning
from torch.utils.data import DataLoader

from srtrain import ranks
from srtrain.data.cache import OnBad, open_images
from srtrain.data.check import check_opened, check_training_data
from srtrain.data.crops import TrainingCrops, WholeImages
from srtrain.data.report import UNREADABLE, Report, cut_line
from srtrain.data.sampler import EndlessBatches
from srtrain.data.workers import EndlessLoader, as_is

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from srtrain.batch import Batch
    from srtrain.data.collection import Source
    from srtrain.data.imageset import ImageSet

TRAIN = "train"

log = logging.getLogger(__name__)


class SRData(lightning.LightningDataModule):
    """uint8 batches ``{hr, lr?, name, sample}``; sample k of a run depends on (seed, k) alone.

    Training resumes at ``trainer.global_step * batch_size``, so nothing of a loader is ever saved;
    the number of workers and of ranks changes nothing. Validation has one loader per set, whole
    images in batches of one, shared among the ranks without padding (so ranks may have unequal
    numbers of batches: never reduce inside a validation step).

    ``batch_size`` is global: over all ranks and micro-batches. ``min_val_size``: what the metrics
    need on each side of a validation image, see `metrics.image_metrics.smallest_side`.

    Raises: ConfigError, DataError, StorageError as its parts do.
    """

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
        progress: bool = True,
    ) -> None:
        super().__init__()
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
        self.progress = progress
        self.train_images: ImageSet | None = None
        self.val_images: dict[str, ImageSet] = {}
        self._reports: dict[str, Report] = {}
        self._prepared = False

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

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless, from the first sample that the run has not seen."""
        self.setup("fit")
        assert self.train_images is not None
        rank, world_size = self._rank()
        done = self.trainer.global_step if self.trainer else 0
        return EndlessLoader(
            TrainingCrops(
                self.train_images,
                hr_patch_size=self.hr_patch_size,
                scale=self.scale,
                seed=self.seed,
            ),
            EndlessBatches(
                batch_size=self.batch_size,
                rank=rank,
                world_size=world_size,
                accumulate=self.accumulate,
                start_sample=done * self.batch_size,
            ),
            num_workers=self.num_workers,
            pin_memory=self._on_cuda(),
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """One per set. The images are decoded already: workers would only cost their start."""
        self.setup("validate")
        rank, world_size = self._rank()
        return [
            DataLoader(
                WholeImages(images, scale=self.scale, rank=rank, world_size=world_size),
                batch_size=None,
                collate_fn=as_is,
                pin_memory=self._on_cuda(),
            )
            for images in self.val_images.values()
        ]

    def transfer_batch_to_device(
        self,
        batch: Any,  # noqa: ANN401 - Lightning's
        device: torch.device,
        dataloader_idx: int,
    ) -> dict[str, Any]:
        """All but ``sample``: reading it back would make every step wait for the last one's end."""
        images = {name: value for name, value in batch.items() if name != "sample"}
        moved = super().transfer_batch_to_device(images, device, dataloader_idx)
        return {**moved, "sample": batch["sample"]}

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

    def _on_cuda(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
