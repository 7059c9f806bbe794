"""The inspection as a web page."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from benchmark.data.decode import BrokenImage, decode
from benchmark.data.samples import Sample
from benchmark.inspection.inspect import BINS, Entry, InspectedQuery, Inspection, RankedList, Summary
from benchmark.plots.style import ACCENT, NEUTRAL, PALETTE
from benchmark.plots.web import WEB_STYLE


class Mark(NamedTuple):
    """The look of answers of one kind: a colour, and a sign for those who do not see it."""

    name: str
    meaning: str
    color: str
    sign: str


MARKS = {
    1: Mark("correct", "correct", PALETTE[1], "\u2713"),
    0: Mark("wrong", "wrong", PALETTE[3], "\u2717"),
    -1: Mark("ignored", "ignored by the protocol", NEUTRAL, "\u2013"),
}
"""By an entry's relation to its query."""


class Names(Protocol):
    """Anything that names identities and cameras; every `RetrievalDataset` does."""

    def identity_name(self, identity: int) -> str: ...

    def camera_name(self, camera: int) -> str: ...


_LAYOUT = """\
h3{font-size:1rem;margin:0 0 .5rem}
dl{display:grid;grid-template-columns:fit-content(40%) minmax(0,1fr);gap:.1rem 1rem;margin:0 0 1rem}
dt{color:var(--pale)}
dd{margin:0}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin:1rem 0}
.overview{display:flex;flex-wrap:wrap;gap:1.5rem 3.5rem;align-items:flex-start}
table{border-collapse:collapse;margin:0 0 .75rem}
th,td{padding:.2rem 1.25rem .2rem 0;text-align:right;border-bottom:1px solid var(--line);
font-variant-numeric:tabular-nums}
th:first-child{text-align:left;font-weight:400}
figure{margin:0;flex:0 1 26rem}
figcaption{margin-bottom:.5rem}
svg{display:block;width:100%;height:auto;font-size:10px;fill:currentColor}
svg text{dominant-baseline:central}
.limits{text-anchor:end;fill:var(--pale)}
.key{display:inline-block;width:.8em;height:.8em;margin:0 .35em 0 1em;border:1.5px solid}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;list-style:none;margin:.75rem 0;padding:0}
article{display:grid;grid-template-columns:7rem minmax(0,1fr);gap:0 1.25rem;padding:1rem 0;
border-top:1px solid var(--line)}
article:first-of-type{margin-top:1rem}
h3{grid-column:1/-1}
.lists{overflow-x:auto;scrollbar-width:thin;padding-bottom:.5rem}
.lists ol{display:flex;gap:.4rem;list-style:none;margin:.25rem 0 .75rem;padding:0}
.lists ol:last-child{margin-bottom:0}
.lists li{flex:none;width:4.75rem}
.lists p{position:sticky;left:0;width:fit-content;max-width:100%;margin:0}
.thumb{display:grid;place-items:center;width:100%;aspect-ratio:1;border:3px solid var(--line);border-radius:4px;
background:var(--blank) center/contain no-repeat;color:var(--pale);font-size:12px;print-color-adjust:exact}
.caption,.name{display:block;font-size:12px;line-height:1.35}
.caption{display:flex;justify-content:space-between;font-variant-numeric:tabular-nums;margin-top:.2rem}
.lists .name{color:var(--pale);white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.mark{display:inline-block;width:1.25em;border-radius:3px;color:#fff;font-weight:700;line-height:1.25;text-align:center;
print-color-adjust:exact}
.ignored .thumb{border-style:dashed}
@media (max-width:40rem){
article{grid-template-columns:minmax(0,1fr)}
.query{display:grid;grid-template-columns:4.75rem minmax(0,1fr);gap:0 .75rem;align-items:start;margin-bottom:.5rem}
th,td{padding-right:.75rem}}"""
STYLE = "\n".join(
    [
        WEB_STYLE,
        _LAYOUT,
        *(
            f".{mark.name} .thumb{{border-color:{mark.color}}}.{mark.name} .mark{{background:{mark.color}}}"
            for mark in MARKS.values()
        ),
        f".bar0{{fill:{PALETTE[0]}}}.bar1{{fill:none;stroke:{ACCENT};stroke-width:1.2}}",
        f".key0{{background:{PALETTE[0]};border-color:{PALETTE[0]}}}.key1{{border-color:{ACCENT}}}",
    ]
)


_WIDTH, _ROW, _BAR, _LEFT, _RIGHT = 360, 28, 11, 62, 44
"""In pixels: the picture, what one part of [0, 1] takes, a bar, and the room for labels and for counts."""


def histogram_svg(networks: dict[str, Summary]) -> str:
    """SVG for use within HTML: for each part of [0, 1], a bar and a count for each of at most two named networks.

    The bars have the CSS classes "bar0" and "bar1".
    """
    longest = max(count for summary in networks.values() for count in summary.histogram)
    bars = []
    for part in range(BINS):
        limits = f"{part / BINS:.1f} \u2013 {(part + 1) / BINS:.1f}"
        top = part * _ROW
        bars.append(f'<text x="{_LEFT - 8}" y="{top + _ROW / 2}" class="limits">{limits}</text>')
        middle = top + (_ROW - _BAR * len(networks)) / 2
        for index, (name, summary) in enumerate(networks.items()):
            count = summary.histogram[part]
            width = (_WIDTH - _LEFT - _RIGHT) * count / longest
            y = middle + index * _BAR
            bars.append(
                f"<g><title>{name}, AP {limits}: {count:,}</title>"
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 1}" class="bar{index}"/>'
                f'<text x="{_LEFT + width + 5:.1f}" y="{y + _BAR / 2}">{count:,}</text></g>'
            )
    label = f"Histogram of the AP of {' and '.join(networks)}"
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {BINS * _ROW}">{"".join(bars)}</svg>'


SIDE = 96
"""The longer side of a thumbnail, at most, in pixels."""


def thumbnail(path: Path) -> Image.Image | None:
    """The image in its own shape, no larger than `SIDE` by `SIDE` and never enlarged; None where it is broken."""
    try:
        image = Image.fromarray(decode(path, (SIDE, SIDE)).permute(1, 2, 0).numpy())
    except BrokenImage:
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


BROKEN = "broken"


class PageImages:
    """Thumbnails as the backgrounds of CSS classes, so that any number of elements shows one without a copy of it."""

    def __init__(self) -> None:
        self._classes: dict[Path, str] = {}
        self._rules: list[str] = []

    def css_class(self, path: Path) -> str:
        """The class of elements that show this image; `BROKEN` where it cannot be decoded."""
        if path not in self._classes:
            self._classes[path] = self._add(path)
        return self._classes[path]

    def css(self) -> str:
        """The rules of all classes asked for so far."""
        return "\n".join(self._rules)

    def _add(self, path: Path) -> str:
        image = thumbnail(path)
        if image is None:
            return BROKEN
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80, optimize=True)
        name = f"i{len(self._rules)}"
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        self._rules.append(f".{name}{{background-image:url(data:image/jpeg;base64,{data})}}")
        return name


class QueryBlock:
    """Writes the HTML of queries with their ranked lists.

    Args:
        names: What identities and cameras are called.
        images: Where the page's images are collected.
    """

    def __init__(self, names: Names, images: PageImages) -> None:
        self.names = names
        self.images = images

    def __call__(self, query: InspectedQuery, number: int) -> str:
        """The `number`th query of its section."""
        identity, camera = self._names(query.sample)
        average = f"AP {query.student.average_precision:.1%}"
        if query.teacher is not None and query.difference is not None:
            average += f", teacher {query.teacher.average_precision:.1%} ({100 * query.difference:+.1f} points)"
        answers = "1 correct answer" if query.positives == 1 else f"{query.positives:,} correct answers"
        if query.teacher is None:
            lists = self._list("", query.student)
        else:
            lists = self._list("<strong>Student</strong>: ", query.student)
            lists += self._list("<strong>Teacher</strong>: ", query.teacher)
        label = f"Ranked answers to query {number}: {identity}"
        return (
            f"<article><h3>{number}. <bdi>{identity}</bdi>: {average}</h3>"
            f'<div class="query">{self._thumb(query.sample, f"query: {identity}, {camera}")}'
            f'<div><bdi class="name">{identity}</bdi><bdi class="name pale">{camera}</bdi>'
            f'<span class="name pale">{answers} in the gallery</span></div></div>'
            f'<div class="lists" tabindex="0" role="region" aria-label="{label}">{lists}</div></article>'
        )

    def _list(self, whose: str, ranked: RankedList) -> str:
        facts = f"AP {ranked.average_precision:.1%}, first correct answer at rank {ranked.first_match_rank:,}"
        return f"<p>{whose}{facts}</p><ol>{''.join(map(self._entry, ranked.entries))}</ol>"

    def _entry(self, entry: Entry) -> str:
        mark = MARKS[entry.relation]
        identity, camera = self._names(entry.sample)
        place = mark.meaning if entry.rank is None else f"rank {entry.rank}, {mark.meaning}"
        text = f"{place}: {identity}, {camera}, similarity {entry.similarity:.3f}"
        rank = "" if entry.rank is None else f" {entry.rank}"
        title = f"{text}, {escape(entry.sample.path.name)}"
        return (
            f'<li class="{mark.name}" title="{title}">{self._thumb(entry.sample, text)}'
            f'<span aria-hidden="true"><span class="caption"><span><span class="mark">{mark.sign}</span>{rank}</span>'
            f"<span>{entry.similarity:.3f}</span></span>"
            f'<bdi class="name">{identity}</bdi><bdi class="name">{camera}</bdi></span></li>'
        )

    def _thumb(self, sample: Sample, text: str) -> str:
        image = self.images.css_class(sample.path)
        broken = BROKEN if image == BROKEN else ""
        text += f", {broken} image" if broken else ""
        return f'<span class="thumb {image}" role="img" aria-label="{text}">{broken}</span>'

    def _names(self, sample: Sample) -> tuple[str, str]:
        return escape(self.names.identity_name(sample.identity)), escape(self.names.camera_name(sample.camera))


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
