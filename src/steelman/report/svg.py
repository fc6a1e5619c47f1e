"""What every figure shares: drawing defaults, and matplotlib's SVG made fit for a page.

What is drawn depends on the item alone, byte for byte. A figure of the page has no ground and takes its colours from
the page's variables, so that it follows its theme; a file is drawn in light colours on white.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from steelman.report.palette import LIGHT

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
POINT = 1 / 72  # matplotlib measures figures in inches, SVG in points
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # which XML has no place for
_RC = {
    "svg.fonttype": "none",
    "font.size": 12,
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.8,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "hatch.linewidth": 1.1,
    "lines.linewidth": 2,
    "lines.markersize": 6.5,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}


@contextmanager
def look(salt: str, changes: Mapping[str, Any] | None = None) -> Generator[None]:
    """The drawing defaults, whatever a user's matplotlibrc says; the salt makes the ids of the SVG repeatable.

    `changes` overrule the defaults, named as in a matplotlibrc.
    """
    with (
        matplotlib.style.context(["default", {**_RC, "svg.hashsalt": salt, **(changes or {})}]),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # names in other scripts: the browser has them
        yield


def svg(figure: Figure, prefix: str, words: str | None, *, inline: bool = True) -> str:
    """The figure as one <svg> element; without words it is decoration."""
    raw = io.BytesIO()
    figure.savefig(raw, format="svg", transparent=inline, metadata={"Date": None})
    root = ET.fromstring(_CONTROL.sub(b"", raw.getvalue()))
    for element in root.findall("*"):
        if element.tag == f"{{{_SVG}}}metadata" or element.find(f"{{{_SVG}}}style") is not None:
            root.remove(element)  # a date and a maker; and rules that would hold for the whole page
    _rename(root, prefix, _inline_style if inline else _file_style)
    root.set("stroke-linejoin", "round")
    root.set("stroke-linecap", "butt")
    if inline:
        del root.attrib["width"], root.attrib["height"]
    else:
        root.set("font-family", SANS)
    if words is None:
        root.set("aria-hidden", "true")
    else:
        root.set("role", "img")
        root.set("aria-label", words)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return ET.tostring(root, encoding="unicode")


def _rename(root: ET.Element, prefix: str, restyle: Callable[[str], str]) -> None:
    """Prefix the ids that are used, drop the others, and restyle: so no two figures of a page share an id."""
    link = f"{{{_XLINK}}}href"
    for element in root.iter():
        element.text, element.tail = (element.text or "").strip() or None, None  # no indentation
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        identity = element.attrib.pop("id", None)
        if identity and element.tag.rpartition("}")[2] in ("path", "clipPath", "pattern"):
            element.set("id", f"{prefix}-{identity}")
        if target := element.attrib.pop(link, None):
            element.set("href", f"#{prefix}-{target.removeprefix('#')}")
        for name in ("style", "fill", "stroke", "clip-path"):
            if value := element.get(name):
                element.set(name, restyle(value.replace("url(#", f"url(#{prefix}-")))


_TOKENS = {colour: f"var(--{token})" for token, colour in LIGHT.items()}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FAMILY = re.compile(r"font-family: [^;]*(; )?")


def _file_style(style: str) -> str:
    """Without the font's family, which is inherited."""
    return _FAMILY.sub("", style)


def _inline_style(style: str) -> str:
    """The palette's colours as the page's variables."""
    return _COLOUR.sub(lambda match: _TOKENS.get(match[0], match[0]), _file_style(style))
