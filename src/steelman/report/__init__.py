"""Reports: one self-contained HTML page a run, and its figures as files; reads what a run wrote and no model."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from steelman.errors import RunError
from steelman.files import replacing
from steelman.page import Bars, Grid, Lines, Matrix, Page, Samples, Table, Trust
from steelman.report import figures, grids, html, matrix, paper, samples

__all__ = ["draw_all", "draw_paper", "write_report"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def write_report(run_dir: Path) -> Path:
    """Draw a run's figures and write its `report.html`, which opens from disk without a network; its path.

    Reads results/page.json, and where they exist spec.txt and env.json.

    Raises:
        RunError: no page in the directory, one that cannot be read, or no room to write.
    """
    page = _page(run_dir)
    spec, env = _text(run_dir / "spec.txt"), _environment(run_dir / "env.json")
    text = html.render(page, run_dir, spec, env)
    _draw(run_dir, page)
    path = run_dir / "report.html"
    _write(path, text.encode())
    return path


def draw_all(run_dir: Path) -> tuple[Path, ...]:
    """Draw every figure of a run's page into `figures/`: images .png, all else .svg; their paths.

    Raises:
        RunError: no page in the directory, one that cannot be read, or no room to write.
    """
    return _draw(run_dir, _page(run_dir))


def draw_paper(run_dir: Path, *, tex: bool = False) -> tuple[Path, ...]:
    """Draw the lines and bars of a run's page into `figures/*.pdf` in the look of LaTeX; their paths.

    Without `tex` in matplotlib's own Computer Modern, with it by LaTeX itself.

    Raises:
        UsageError: LaTeX is asked for and not installed.
        RunError: no page in the directory, one that cannot be read, no room to write, or LaTeX failed.
    """
    return paper.draw_paper(run_dir, _page(run_dir), tex=tex)


def _draw(run_dir: Path, page: Page) -> tuple[Path, ...]:
    paths = []
    for section in page.sections:
        for item in section.items:
            if isinstance(item, Lines | Bars):
                paths.append(run_dir / "figures" / f"{item.name}.svg")
                _write(paths[-1], figures.whole(item).encode())
            elif isinstance(item, Samples):
                paths.append(run_dir / "figures" / f"{item.name}.png")
                _write(paths[-1], samples.whole(item, samples.read(run_dir, item)))
            elif isinstance(item, Matrix):
                paths.append(run_dir / "figures" / f"{item.name}.svg")
                _write(paths[-1], matrix.whole(item).encode())
            elif isinstance(item, Grid):
                paths.append(run_dir / "figures" / f"{item.name}.png")
                _write(paths[-1], grids.whole(item, grids.read(run_dir, item)))
    return tuple(paths)


def _page(run_dir: Path) -> Page:
    path = run_dir / "results" / "page.json"
    try:
        page = Page.load(path)
    except FileNotFoundError:
        raise RunError(
            f"{run_dir} holds no results/page.json. "
            "Expected the directory of a finished study or evaluation; run it first, or finish it."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} cannot be read as a page ({type(error).__name__}: {error}). Run the study again to make it."
        ) from None
    names = [item.name for section in page.sections for item in section.items if not isinstance(item, Table | Trust)]
    for name in names:
        if not _NAME.fullmatch(name) or names.count(name) > 1:
            raise RunError(
                f"{path} names a figure {name!r}. Expected letters, digits, '_', '-', '.', and each name once: "
                "it becomes a file."
            )
    return page


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}). Remove it or run the study again.") from None


def _environment(path: Path) -> Mapping[str, object]:
    try:
        read: object = json.loads(_text(path) or "{}")
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}). Remove it or run the study again.") from None
    if not isinstance(read, dict):
        raise RunError(f"{path} holds a {type(read).__name__}. Expected one flat object of names and values.")
    return {str(key): value for key, value in read.items()}


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as (draft,):
        draft.write_bytes(content)
