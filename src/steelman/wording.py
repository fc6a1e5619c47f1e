"""Numbers as sentences take them: shares with interval and n, p-values."""

from collections.abc import Mapping
from typing import Any


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent; "none" where there was no case."""
    return "none" if value is None else f"{100 * value:.{digits}f} %"


def share_text(share: Mapping[str, Any], digits: int = 1) -> str:
    """A measured share, as `Share.to_json` gives it, with its interval and n."""
    if share["value"] is None:
        return "none of 0"
    ends = ", ".join(f"{100 * share[end]:.{digits}f}" for end in ("low", "high"))
    return f"{percent(share['value'], digits)} [{ends}] of {share['n']}"


def p_text(p: float) -> str:
    """A p-value with its letter."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
