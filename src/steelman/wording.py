"""Numbers as sentences take them: shares with interval and n, p-values."""

from collections.abc import Iterable, Mapping
from typing import Any


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent; "none" where there was no case."""
    return "none" if value is None else f"{100 * value:.{digits}f} %"


def share_text(share: Mapping[str, Any], digits: int = 1) -> str:
    """A measured share, as `Share.to_json` gives it, with its interval and n."""
    return "none of 0" if share["value"] is None else f"{interval_text(share, digits)} of {share['n']}"


def interval_text(share: Mapping[str, Any], digits: int = 1) -> str:
    """A measured share with its interval, where its n is told elsewhere in the sentence."""
    ends = ", ".join(f"{100 * share[end]:.{digits}f}" for end in ("low", "high"))
    return f"{percent(share['value'], digits)} [{ends}]"


def sentences(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes, which a terminal shows behind the word note, as sentences of a page."""
    return tuple(note[:1].upper() + note[1:] + ("" if note.endswith(".") else ".") for note in notes)


def p_text(p: float) -> str:
    """A p-value with its letter."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
