"""The format safetensors: the pruned checkpoint as loaders read it, byte for byte, without masks and report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unipruning_core.export.contract import Choice, Exporter
from unipruning_core.export.source import Source
from unipruning_core.progress import Progress


class Copied(Exporter):
    """A copy."""

    def size(self, source: Source, choice: Choice) -> int:
        return sum(shard.stat().st_size for shard in source.checkpoint.shards)

    def write(self, source: Source, choice: Choice, folder: Path, progress: Progress) -> Mapping[str, Any]:
        with progress.task("checking weights", len(source.masks.targets), "matrices") as task:
            for target in source.masks.targets:
                source.stored(target)
                task.advance()
        source.copy_files(folder)
        with progress.task("copying", self.size(source, choice), "B") as task:
            for shard in source.checkpoint.shards:
                shutil.copyfile(shard, folder / shard.name)
                task.advance(shard.stat().st_size)
        return {}
