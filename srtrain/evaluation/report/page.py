"""``report.html``: all that was measured and made, in one file that loads nothing."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass, field
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from srtrain.checks import counted
from srtrain.evaluation.report import pictures, svg, tables
from srtrain.evaluation.report.finding import finding, highest
from srtrain.evaluation.report.markup import folded, table, text
from srtrain.evaluation.titles import ordered
from srtrain.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from srtrain.evaluation.comparison import Difference
    from srtrain.evaluation.results import Results
    from srtrain.evaluation.shown import Shown


@dataclass(frozen=True)
class FigureOf:
    """A figure as matplotlib writes SVG, and the words above and below it."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class TableOf:
    """A further table, of words; the first of each row names it."""

    title: str
    caption: str
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class RowOf:
    """The same part of several layers of each picture, in one row.

    ``tiles``: what is written below each → the layer: ``HR``, ``LR``, a model, or a name of
    ``Shown.extra``. A picture that lacks one has no tile of it. ``hottest``: what the lightest
    colour of its maps means, e.g. ``32 gray levels``; empty without maps.
    """

    title: str
    caption: str
    tiles: dict[str, str]
    hottest: str = ""


@dataclass(frozen=True)
class Report:
    """What the page shows; whatever is empty is absent from it.

    ``configuration``: MODEL → YAML. ``environment``: versions, device, ``date``, ``command`` … in
    the order in which they are told. ``notes``: sentences that a reader must know.
    """

    title: str
    results: Results | None = None
    differences: list[Difference] = field(default_factory=list)
    tables: list[TableOf] = field(default_factory=list)
    figures: list[FigureOf] = field(default_factory=list)
    gallery: list[Shown] = field(default_factory=list)
    rows: list[RowOf] = field(default_factory=list)
    configuration: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all. Raises: OSError."""
    # What UTF-8 cannot hold are names of files; they become marks, not an error.
    write_atomic(path, page(report).encode("utf-8", "xmlcharrefreplace"))


def page(report: Report) -> str:
    """The HTML.

    The browser is told to run the one script that is known here by its hash, and to load nothing:
    a name that were taken for HTML after all could still do nothing.
    """
    shown = pictures.gallery(report.gallery)
    sections = [(anchor, name, body) for anchor, name, body in _sections(report, shown) if body]
    script = "\n".join(_file(name) for name in ("viewer.js", "rows.js", "images.js"))
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    results, environment = report.results, report.environment
    return Template(_file("template.html")).substitute(
        script_hash=digest,
        title=text(report.title),
        style=_file("style.css"),
        date=text(environment.get("date", "")),
        finding=text(finding(results, report.differences) if results else ""),
        facts=_facts(report),
        navigation="".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, _ in sections),
        sections="\n".join(
            f'<section id="{anchor}" aria-labelledby="{anchor}-h">'
            f'<h2 id="{anchor}-h">{name}</h2>\n{body}\n</section>'
            for anchor, name, body in sections
        ),
        data=pictures.as_script(_data(report, shown)),
        script=script,
    )


def _sections(report: Report, shown: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    results = report.results
    means = f"{tables.summary(results)}\n{tables.legend(results)}" if results else ""
    values = pictures.values_of_images(results, report.gallery)
    drawn = [
        svg.figure(one.svg, heading=one.title, caption=one.caption, prefix=f"f{index}-")
        for index, one in enumerate(report.figures)
    ]
    return [
        ("summary", "Summary", means if results and results.models else ""),
        ("pictures", "Pictures", _viewer(len(shown), of=len(report.gallery))),
        ("comparison", "Comparison", tables.comparison(report.differences)),
        ("images", "Image by image", _file("images.html") if values else ""),
        ("tables", "Training", "\n".join(map(_table, report.tables))),
        ("figures", "Figures", f'<div class="figures">{"".join(drawn)}</div>' if drawn else ""),
        ("configuration", "Configuration", _configuration(report)),
        ("environment", "Environment", _environment(report)),
    ]


def _viewer(count: int, *, of: int) -> str:
    """The stage, and how many pictures it has no room for."""
    stage = _file("viewer.html") if count else ""
    if count == of:
        return stage
    most = f"{pictures.A_SET} of a set and {pictures.MOST / 1e6:.0f} MB of all at most"
    said = f"{of - count} of {counted(of, 'picture')} are not here: the page holds {most}."
    return f'{stage}\n<p class="note">{said}</p>'


def _table(of: TableOf) -> str:
    head = [text(cell) for cell in of.head]
    rows = [[folded(first), *map(text, rest)] for first, *rest in of.rows]
    caption = f'<p class="note">{text(of.caption)}</p>' if of.caption else ""
    return f"<h3>{text(of.title)}</h3>\n{table(head, rows, label=of.title)}{caption}"


def _data(report: Report, pictured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shown, results = report.gallery, report.results
    models = dict.fromkeys(model.name for model in results.models) if results else {}
    models |= dict.fromkeys(name for one in shown for name in one.sr)
    found = pictures.values_of_images(results, shown)
    metrics = dict.fromkeys(name for one in found for row in one["values"].values() for name in row)
    return {
        "models": list(models),
        "metrics": [pictures.about_metric(name) for name in ordered(metrics)],
        "images": found,
        "pictures": pictured,
        "rows": [
            {
                "title": row.title,
                "caption": row.caption,
                "hottest": row.hottest,
                "tiles": [
                    [label, pictures.key_of(shown, name)] for label, name in row.tiles.items()
                ],
            }
            for row in report.rows
        ],
        "first": _first(report, list(models)),
    }


def _first(report: Report, models: list[str]) -> list[str]:
    """What the viewer compares at first: bicubic or the first model, and the best of the others."""
    left = next((name for name in models if name == "bicubic"), next(iter(models), ""))
    others = [name for name in models if name != left]
    right = highest(report.results, others) if report.results else ""
    return [left, right or (others[-1] if others else "")]


def _facts(report: Report) -> str:
    """Who was compared on what, for the head of the page."""
    if report.results is None:
        return ""
    lists = {
        "models": [model.name for model in report.results.models],
        "data": report.results.sets,
    }
    return "".join(
        f"<div><dt>{name}</dt><dd>{text(', '.join(of))}</dd></div>"
        for name, of in lists.items()
        if of
    )


def _configuration(report: Report) -> str:
    digests = {m.name: m.sha256 for m in report.results.models} if report.results else {}
    known = dict.fromkeys([*report.configuration, *(name for name, of in digests.items() if of)])
    folded = []
    for name in known:
        digest = digests.get(name, "")
        of = f'<p class="note">sha256 <code>{text(digest)}</code></p>' if digest else ""
        yaml = report.configuration.get(name, "")
        block = f'<pre tabindex="0">{text(yaml)}</pre>' if yaml else ""
        folded.append(f"<details><summary>{text(name)}</summary>{of}{block}</details>")
    return "\n".join(folded)


def _environment(report: Report) -> str:
    """Where it was made, by which protocol, and what else must be known."""
    parts = [_terms(report.environment)]
    if report.results and report.results.protocol:
        protocol = _terms(flat(report.results.protocol))
        parts.append(f"<details><summary>Protocol of the figures</summary>{protocol}</details>")
    if report.notes:
        notes = "".join(f"<li>{text(note)}</li>" for note in report.notes)
        parts.append(f'<h3>Notes</h3><ul class="notes">{notes}</ul>')
    return "\n".join(filter(None, parts))


def _terms(of: Mapping[str, object]) -> str:
    if not of:
        return ""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in of.items())
    return f'<dl class="terms">{rows}</dl>'


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    found: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
