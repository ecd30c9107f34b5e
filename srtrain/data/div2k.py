"""DIV2K: 800 training and 100 validation photos of about 2040 x 1356, from the authors' server."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.console import Console
from rich.progress import track

from srtrain.data.sources import Folder
from srtrain.download import download, locked
from srtrain.errors import DataError, StorageError

if TYPE_CHECKING:
    from srtrain.data.collection import Collection

URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K"


class Split(NamedTuple):
    """Photos ``first … last`` in an archive with this checksum."""

    first: int
    last: int
    sha256: str


# Checksums: tensorflow/datasets, div2k/checksums.tsv (3,530,603,713 and 448,993,893 bytes).
SPLITS = {
    "train": Split(1, 800, "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"),
    "valid": Split(801, 900, "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc"),
}


class Div2k(Folder):
    """The HR photos in ``root/DIV2K_<split>_HR``, downloaded and unpacked there if missing.

    The archive is removed once unpacked. A folder that is there is used as it is if it holds
    every photo; ``root`` may be one that other tools have filled.

    Raises (when scanned): StorageError if the download fails or the disk is full; DataError if
    the folder is there but incomplete.
    Source: Agustsson and Timofte 2017, NTIRE 2017 challenge on single image super-resolution.
    """

    def __init__(
        self, root: str | Path, split: Literal["train", "valid"], *, url: str = URL
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
        self.split = split
        self.url = url
        self.folder = Path(root).expanduser() / f"DIV2K_{split}_HR"
        super().__init__(self.folder)

    def collections(self) -> list[tuple[Collection, int]]:
        """The photos, fetched first if need be."""
        if not self._scanned:
            self.fetch()
        return super().collections()

    def fetch(self) -> None:
        """Afterwards ``folder`` holds every photo; a second call does nothing."""
        if not self.folder.exists():
            self._download()
        missing = [name for name in self._names() if not (self.folder / name).is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self._names())} DIV2K photos are missing, {missing[0]} …",
                where=str(self.folder),
                fix="complete the folder, or remove it and run the same command again",
            )

    def _names(self) -> list[str]:
        first, last, _ = SPLITS[self.split]
        return [f"{number:04d}.png" for number in range(first, last + 1)]

    def _download(self) -> None:
        name = f"{self.folder.name}.zip"
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.folder.with_name(f".{name}.lock")):
            if self.folder.exists():  # another process was faster
                return
            archive = self.folder.with_name(name)
            download(f"{self.url}/{name}", archive, sha256=SPLITS[self.split].sha256)
            self._unpack(archive)
            archive.unlink()

    def _unpack(self, archive: Path) -> None:
        """Into a temporary folder beside, renamed when whole."""
        temporary = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}.", dir=self.folder.parent))
        try:
            self._extract(archive, temporary)
            temporary.chmod(0o755)
            temporary.rename(self.folder)
        except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise StorageError(
                f"cannot unpack: {error}",
                where=str(archive),
                fix="check the disk (8 GB needed for all of DIV2K), remove the archive if it stays "
                "so, and run the same command again",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _extract(self, archive: Path, folder: Path) -> None:
        console = Console(stderr=True)
        with zipfile.ZipFile(archive) as packed:
            for name in track(
                self._names(), archive.name, console=console, disable=not console.is_terminal
            ):
                member = packed.open(f"{self.folder.name}/{name}")
                with member, (folder / name).open("wb") as stream:
                    shutil.copyfileobj(member, stream, 1 << 20)
