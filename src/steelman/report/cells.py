"""Numbers as a reader wants them: shares in percent with interval and n, means with deviation, a dash for none."""

import math
from dataclasses import dataclass
from typing import Any

from steelman.errors import RunError
from steelman.page import Cell, Real

DASH = "—"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Shown:
    """A cell in words: the number, and in smaller type what it stands on."""

    main: str
    small: str = ""
    numeric: bool = True


def show(cell: Cell) -> Shown:
    """The text of one table cell.

    Raises:
        RunError: a dict that is neither a share nor a mean.
    """
    if cell is None:
        return Shown(DASH)
    if isinstance(cell, str):
        return Shown(cell.replace(" %", "\u00a0%"), numeric=False)
    if isinstance(cell, bool):
        return Shown("yes" if cell else "no", numeric=False)
    if isinstance(cell, dict):
        return _share(cell) if "value" in cell else _mean(cell)
    return Shown(number(cell))


def number(value: Real | None) -> str:
    """Four significant digits, thousands separated, powers of ten for the very small."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−") if abs(value) >= 10_000 else str(value).replace("-", "−")
    if value and abs(value) < 1e-3:
        mantissa, power = f"{value:.2e}".split("e")
        return f"{mantissa.replace('-', '−')} · 10{str(int(power)).translate(_SUPERSCRIPT)}"
    text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return text.replace("-", "−")


def tick(value: Real) -> str:
    """A round number beside an axis: in full where that is short, as a power of ten elsewhere."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,g}".replace("-", "−")
    mantissa, power = f"{value:e}".split("e")
    head = "" if float(mantissa) == 1 else f"{float(mantissa):g} · ".replace("-", "−")
    return f"{head}10{str(int(power)).translate(_SUPERSCRIPT)}"


def percent(value: Real | None, digits: int = 1) -> str:
    """A share as percent."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def between(y: Real | None, low: Real | None, high: Real | None, *, share: bool) -> Shown:
    """A point of a figure with its interval."""
    ends = ""
    if low is not None and high is not None:
        ends = f"{100 * low:.1f}–{100 * high:.1f}" if share else f"{number(low)} to {number(high)}"
    return Shown(percent(y, 2) if share else number(y), ends)


def _share(cell: dict[str, Any]) -> Shown:
    value, low, high, n = (cell.get(key) for key in ("value", "low", "high", "n"))
    parts = []
    if value is not None and low is not None and high is not None:
        parts.append(f"{100 * low:.1f}–{100 * high:.1f}")
    if n is not None:
        parts.append(f"n = {n:,}")
    return Shown(percent(value, 2 if n is None or n >= 1000 else 1), ", ".join(parts))


def _mean(cell: dict[str, Any]) -> Shown:
    if "mean" not in cell:
        raise RunError(
            f"a table cell has the keys {', '.join(sorted(cell)) or 'none'}. "
            "Expected value, low, high, n (a share) or mean, sd, n; make the page again with this version of steelman."
        )
    mean, sd, n = (cell.get(key) for key in ("mean", "sd", "n"))
    share = bool(cell.get("percent"))
    text = percent(mean, 2) if share else number(mean)
    if mean is not None and sd is not None and not math.isnan(sd):
        text = f"{100 * mean:.2f} ± {100 * sd:.2f} %" if share else f"{number(mean)} ± {number(sd)}"
    return Shown(text, "" if n is None else f"n = {n:,}")
