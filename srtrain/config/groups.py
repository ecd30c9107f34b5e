"""The groups and options that the search path holds: ``--config-dir`` folders, then ``conf/``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from srtrain.config.yamlfile import ConfigFile, read_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Groups:
    """``conf`` first, as Hydra searches it, then the user's folders."""

    folders: tuple[Path, ...]
    _read: dict[Path, ConfigFile] = field(default_factory=dict)

    @classmethod
    def of(cls, conf: Path, config_dirs: Sequence[Path]) -> Groups:
        """The search path of one command line."""
        return cls((conf, *config_dirs))

    def is_group(self, name: str) -> bool:
        """Whether a folder of that name exists anywhere on the search path."""
        return bool(name) and any((folder / name).is_dir() for folder in self.folders)

    def names(self) -> list[str]:
        """All groups, without Hydra's own."""
        found = {path.name for folder in self.folders for path in folder.iterdir() if path.is_dir()}
        return sorted(name for name in found if name != "hydra" and not name.startswith((".", "_")))

    def options(self, group: str) -> list[str]:
        """The options of a group, by name."""
        found = {p.stem for folder in self.folders for p in (folder / group).glob("*.yaml")}
        return sorted(found)

    def path(self, group: str, option: str) -> Path | None:
        """The file of an option; where several folders have it, the first is Hydra's choice."""
        for folder in self.folders:
            candidate = folder / group / f"{option.removesuffix('.yaml')}.yaml"
            if candidate.is_file():
                return candidate
        return None

    def read(self, group: str, option: str) -> ConfigFile | None:
        """The parsed file of an option, or None; raises ConfigError if it is not YAML."""
        path = self.path(group, option)
        return self.read_path(path) if path else None

    def read_path(self, path: Path) -> ConfigFile:
        """The parsed file, read once."""
        if path not in self._read:
            self._read[path] = read_config(path)
        return self._read[path]

    def is_users(self, file: ConfigFile) -> bool:
        """Whether the file lies in a ``--config-dir`` folder, not in srtrain's own tree."""
        return not file.path.is_relative_to(self.folders[0])
