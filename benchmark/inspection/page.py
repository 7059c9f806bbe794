"""An inspection as a web page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from benchmark.inspection.histogram import histogram_svg
from benchmark.inspection.inspected_query import InspectedQuery
from benchmark.inspection.inspection import Inspection
from benchmark.inspection.marks import MARKS
from benchmark.inspection.names import Names
from benchmark.inspection.page_images import PageImages
from benchmark.inspection.query_block import QueryBlock
from benchmark.inspection.style import STYLE
from benchmark.inspection.summary import Summary


class _Section(NamedTuple):
    anchor: str
    title: str
    order: str
    queries: Sequence[InspectedQuery]


def inspection_page(inspection: Inspection, title: str, facts: Mapping[str, str], names: Names) -> str:
    """One HTML page that needs no other file and no network: images are in it, each once, however often it is shown.

    Args:
        inspection: What to show.
        title: Of the page, such as "kd on glyphs".
        facts: What else to say of the run, by name: dataset, protocol, folder.
        names: What identities and cameras are called.
    """
    networks = {"network": inspection.student}
    if inspection.teacher is not None:
        networks = {"student": inspection.student, "teacher": inspection.teacher}
    images = PageImages()
    block = QueryBlock(names, images)
    sections = _sections(inspection)
    main = "".join(_section(section, block) for section in sections)  # before the style sheet, which has its images
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{escape(title)}</title>
<style>
{STYLE}
{images.css()}
</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<dl>{"".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())}</dl>
<div class="overview">
<div>
{_table(networks)}
{_counts(inspection)}
{_navigation(sections)}
</div>
<figure><figcaption>Queries by AP{_keys(networks)}</figcaption>{histogram_svg(networks)}</figure>
</div>
</header>
<main>
{_legend()}
{main}
</main>
</body>
</html>
"""


def _table(networks: Mapping[str, Summary]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in networks)
    rows = {"mAP": [summary.mAP for summary in networks.values()]}
    for k in next(iter(networks.values())).recall:
        rows[f"Recall@{k}"] = [summary.recall[k] for summary in networks.values()]
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{value:.1%}</td>" for value in values)}</tr>'
        for name, values in rows.items()
    )
    return f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _counts(inspection: Inspection) -> str:
    text = f"<p>Queries: {inspection.queries - inspection.skipped:,}"
    if inspection.skipped:
        text += f"; skipped, for lack of a correct answer: {inspection.skipped:,}"
    text += ".</p>"
    if (comparison := inspection.comparison) is not None:
        text += (
            f"<p>Queries on which the student's AP is higher than the teacher's: {comparison.better:,}; the same: "
            f"{comparison.equal:,}; lower: {comparison.worse:,}.</p>"
        )
    return text


def _sections(inspection: Inspection) -> list[_Section]:
    title = f"Worst queries ({len(inspection.worst)})"
    sections = [_Section("worst", title, "The lowest AP first.", inspection.worst)]
    if inspection.comparison is not None:
        title = f"Lost against the teacher ({len(inspection.lost)} of {inspection.comparison.worse:,})"
        order = "The largest loss of AP first." if inspection.lost else "On no query is the student's AP lower."
        sections.append(_Section("lost", title, order, inspection.lost))
    return sections


def _navigation(sections: Sequence[_Section]) -> str:
    links = "".join(f'<a href="#{section.anchor}">{section.title}</a>' for section in sections)
    return f'<nav aria-label="Sections">{links}</nav>'


def _keys(networks: Mapping[str, Summary]) -> str:
    if len(networks) == 1:
        return ""
    return "".join(f'<span class="key key{index}"></span>{name}' for index, name in enumerate(networks))


def _legend() -> str:
    marks = "".join(
        f'<li class="{mark.name}"><span class="mark">{mark.sign}</span> {mark.meaning}</li>' for mark in MARKS.values()
    )
    return (
        f'<ul class="legend">{marks}</ul><p class="pale">Below each image: its mark and rank, its similarity to the '
        "query, its identity and its camera. Ranks do not count what the protocol ignores. Lists scroll sideways.</p>"
    )


def _section(section: _Section, block: QueryBlock) -> str:
    queries = "\n".join(block(query, number) for number, query in enumerate(section.queries, start=1))
    head = f'<h2>{section.title}</h2><p class="pale">{section.order}</p>'
    return f'<section id="{section.anchor}">{head}\n{queries}</section>'
