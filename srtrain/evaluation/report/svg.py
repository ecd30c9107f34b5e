"""Figures as part of the page: their words can be selected, their ink follows light and dark."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from srtrain.evaluation.report.markup import text

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
LEFT_OUT = {"metadata", "style", "script", "foreignObject", "iframe", "handler", "set", "animate"}
INK = {"#000000": "currentColor", "#ffffff": "var(--paper)"}
_COLOUR = re.compile("|".join(INK))


def inline(svg: str, *, label: str, prefix: str) -> str:
    """The ``<svg>`` element of matplotlib's file, to stand inside a page.

    Black becomes the page's ink and white its paper. Nothing that acts is kept: no scripts, events,
    links out or style sheets, which would reach the whole page. ``prefix`` keeps the ids of several
    figures apart.

    Raises: ElementTree.ParseError for what is no XML.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    _clean(root, prefix)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    # Black is what SVG draws with where nothing is said, and matplotlib then says nothing.
    root.attrib |= {"role": "img", "fill": "currentColor", "stroke-linejoin": "round"}
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, prefix: str) -> None:
    for child in list(element):
        if _local(child.tag) in LEFT_OUT:  # comments are none: the parser drops them
            element.remove(child)
        else:
            _clean(child, prefix)
    for name, value in list(element.attrib.items()):
        local = _local(name)
        if local.startswith("on") or (local == "href" and not value.startswith("#")):
            del element.attrib[name]
        elif local == "id":
            element.set(name, prefix + value)
        elif local == "href":
            element.set(name, f"#{prefix}{value[1:]}")
        else:
            value = value.replace("url(#", f"url(#{prefix}")
            element.set(name, _COLOUR.sub(lambda found: INK[found[0]], value))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def figure(svg: str, *, caption: str, heading: str, prefix: str) -> str:
    """A figure with its words below."""
    drawn = inline(svg, label=heading, prefix=prefix)
    words = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure><h3>{text(heading)}</h3><div class="drawn">{drawn}</div>{words}</figure>'
