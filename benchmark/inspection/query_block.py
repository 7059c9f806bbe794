"""One query on a page."""

from html import escape

from benchmark.data.sample import Sample
from benchmark.inspection.entry import Entry
from benchmark.inspection.inspected_query import InspectedQuery
from benchmark.inspection.marks import MARKS
from benchmark.inspection.names import Names
from benchmark.inspection.page_images import BROKEN, PageImages
from benchmark.inspection.ranked_list import RankedList


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
        facts = f"AP {ranked.average_precision:.1%}, first correct answer at rank {ranked.first_hit:,}"
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
