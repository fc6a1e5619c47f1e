"""Colours of the report, once for the page (CSS variables) and once for the figures.

The role colours descend from Okabe & Ito 2008 (Color Universal Design), made darker on white and lighter on dark so
that lines keep a contrast of 3:1 and text one of 4.5:1. A role is never told by colour alone: each has its own dash,
marker and hatch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from steelman.page import Series

LIGHT = {
    "ground": "#faf9f7",
    "card": "#ffffff",
    "ink": "#1c1e22",
    "muted": "#5b616b",
    "rule": "#dfddd7",
    "link": "#0b5aa6",
    "natural": "#cf5200",
    "fgsm": "#0072b2",
    "pgd": "#008061",
    "published": "#6b6f76",
    "other": "#9c4a8c",
    "other-2": "#8a6a00",
    "other-3": "#7a4a2b",
    "ok": "#0a6349",
    "ok-ground": "#e1f3ec",
    "warn": "#7c4a00",
    "warn-ground": "#fdf0d6",
    "fail": "#9c2310",
    "fail-ground": "#fde6e1",
    "info": "#284f7c",
    "info-ground": "#e5eef8",
}
DARK = {
    "ground": "#131519",
    "card": "#1b1e24",
    "ink": "#e9e7e2",
    "muted": "#a7adb8",
    "rule": "#353a44",
    "link": "#82bbff",
    "natural": "#ff8d45",
    "fgsm": "#5cb9f7",
    "pgd": "#2fcaa3",
    "published": "#a0a6b1",
    "other": "#e39bd2",
    "other-2": "#e6c14a",
    "other-3": "#cfa078",
    "ok": "#66d6ad",
    "ok-ground": "#123128",
    "warn": "#f2be5f",
    "warn-ground": "#372a10",
    "fail": "#ffa08c",
    "fail-ground": "#41190f",
    "info": "#a0c7f4",
    "info-ground": "#1a2a3e",
}
# the colours of matrices: the ends change places with the theme, both inks stand out from the one in the middle
HEAT_LIGHT = {
    "heat-low": "#fdf3cf",
    "heat-mid": "#1b8196",
    "heat-high": "#0f2d57",
    "heat-ink-low": "#000000",
    "heat-ink-high": "#ffffff",
}
HEAT_DARK = {
    "heat-low": "#0f2d57",
    "heat-mid": "#1b8196",
    "heat-high": "#fdf3cf",
    "heat-ink-low": "#ffffff",
    "heat-ink-high": "#000000",
}

_ROLES = ("natural", "fgsm", "pgd", "published", "other")
_OTHERS = ("other", "other-2", "other-3")
_DASHES = ("solid", (0, (4.5, 1.6)), (0, (5.0, 1.4, 1.0, 1.4)), (0, (1.0, 1.3)), (0, (8.0, 1.4, 1.0, 1.4, 1.0, 1.4)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_HATCHES = ("", "////", "xxx", "", "...", "\\\\\\\\", "|||", "---")


@dataclass(frozen=True)
class Style:
    """How one series looks: a colour token of the palettes, a dash, a marker, a hatch, and whether it is hollow."""

    token: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str
    hatch: str
    hollow: bool

    @property
    def colour(self) -> str:
        """The colour on a light ground; the page replaces it by the variable of the token."""
        return LIGHT[self.token]


def styles(series: Iterable[Series]) -> dict[tuple[str, str], Style]:
    """One look for each (role, label), in the order of first appearance; a role met again changes dash and marker.

    A series that is like another has its colour, the next dash, and hollow markers.
    """
    series = tuple(series)
    free = () if any(one.role != "other" for one in series) else ("fgsm", "pgd", "natural")  # where nobody plays them
    others = _OTHERS + free
    found: dict[tuple[str, str], Style] = {}
    met = dict.fromkeys(_ROLES, 0)
    for one in series:
        key = (one.role, one.label)
        if key in found:
            continue
        if twin := found.get((one.role, one.like)):
            dash = _DASHES[(_DASHES.index(twin.dash) + 1) % len(_DASHES)]
            found[key] = replace(twin, dash=dash, hollow=True)
            continue
        base, again = _ROLES.index(one.role), met[one.role]
        met[one.role] += 1
        found[key] = Style(
            token=others[again % len(others)] if one.role == "other" else one.role,
            dash=_DASHES[(base + again) % len(_DASHES)],
            marker=_MARKERS[(base + 5 * again) % len(_MARKERS)],
            hatch=_HATCHES[(base + 5 * again) % len(_HATCHES)],
            hollow=one.role == "published",
        )
    return found


def variables(palette: dict[str, str]) -> str:
    """The palette as CSS declarations."""
    return " ".join(f"--{token}: {colour};" for token, colour in palette.items())
