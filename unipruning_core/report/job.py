"""From folders to a page and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unipruning_core.errors import ConfigError
from unipruning_core.progress import Progress
from unipruning_core.report.content import content_of
from unipruning_core.report.figure import Figure
from unipruning_core.report.folders import Folders
from unipruning_core.report.gather import Gathered, gather
from unipruning_core.report.measured import Known, Lookup, known_models, read_results
from unipruning_core.report.page import render
from unipruning_core.report.png import can_draw, write_png
from unipruning_core.report.svg import standalone_svg
from unipruning_core.storage.files import write_text
from unipruning_core.storage.outputs import errors_as_output_errors, write_whole

LARGEST = 2_000_000  # bytes of a page that opens at once anywhere


@dataclass(frozen=True)
class Written:
    """A report that was written."""

    page: Path
    size: int  # bytes of the page
    figures: tuple[str, ...]  # names, without an ending
    png: bool  # whether they were drawn as PNG too


def write_report(
    folders: Folders, results: Sequence[Path], out: Path, figures: Path | None, progress: Progress
) -> Written:
    """Write the page, and each figure as SVG and, where matplotlib is installed, as PNG.

    Raises:
        RunError, CheckpointError: a folder cannot be read.
        ConfigError: the folders are of different models, results cannot be read, or the page is too large.
        OutputError: page or figures cannot be written.
    """
    gathered = gather(folders, progress)
    lookup = _lookup(gathered)
    measured = [figure for path in results for figure in read_results(path, lookup)]
    content = content_of(gathered, measured, results)
    page = render(content)
    if (size := len(page.encode())) > LARGEST:
        raise ConfigError(
            f"the report would take {size / 1e6:.1f} MB, more than {LARGEST / 1e6:g} MB; pass fewer folders at a time"
        )
    write_whole(out, page)
    if figures is not None:
        with errors_as_output_errors(figures, "folder"):
            _write_figures(content.figures, figures, progress)
    return Written(out, size, tuple(figure.name for figure in content.figures), can_draw())


def _lookup(gathered: Gathered) -> Lookup:
    known = {
        str(output.path): Known(output.method, output.sparsity, output.report["sparsity"])
        for output in gathered.outputs
    }
    return known_models(known, gathered.model)


def _write_figures(figures: Sequence[Figure], folder: Path, progress: Progress) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draws = can_draw()
    with progress.task("drawing", len(figures), "figures") as task:
        for figure in figures:
            write_text(folder / f"{figure.name}.svg", standalone_svg(figure))
            if draws:
                write_png(figure, folder / f"{figure.name}.png")
            task.advance()
