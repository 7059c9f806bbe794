"""The results of `benchmark evaluate`, as tables and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import HORIZONTALS
from rich.table import Table

from benchmark.retrieval import ApproximateScores, ClusteringScores, EmbeddingFormat, Protocol, Scores
from benchmark.utils.atomic import write_text
from benchmark.utils.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Scores of a gallery in one format, and what was requested in addition."""

    embedding: EmbeddingFormat
    bytes_per_image: int
    exact: Scores
    exact_seconds: float
    approximate: ApproximateScores | None = None
    """Scores of an approximate index, if one was requested."""
    clustering: ClusteringScores | None = None
    """Clustering scores of the gallery, if they were requested."""

    @property
    def means(self) -> dict[str, float]:
        """The mean scores by name, as fractions."""
        exact = self.exact
        return {
            "mAP": exact.mAP,
            **{f"R@{k}": value for k, value in exact.recall.items()},
            "mINP": exact.mINP,
            "MAP@R": exact.mAP_at_R,
            "R-precision": exact.R_precision,
            **{f"P@{k}": value for k, value in exact.precision.items()},
        }

    @property
    def clusters(self) -> dict[str, float]:
        """The clustering scores by name; none if they were not requested."""
        return {} if self.clustering is None else {"NMI": self.clustering.NMI, "AMI": self.clustering.AMI}


def report(results: Sequence[Evaluated], title: str, protocol: Protocol, output: Path | None) -> None:
    """Print the mean scores, and write them and the scores of every query to a JSON file.

    Args:
        results: One per format of the gallery. Several are compared in one table.
        title: Title of the table.
        protocol: Evaluation settings.
        output: The JSON file; None to not write it.
    """
    console = Console(highlight=False, soft_wrap=True)
    first, exact = results[0], results[0].exact
    console.print(_scores_table(first, title) if len(results) == 1 else _formats_table(results, title))
    skipped = f", {exact.skipped:,} of them skipped because they have no correct match" if exact.skipped else ""
    console.print(f"{exact.queries:,} queries{skipped}; scores in percent")
    if len(results) == 1:
        console.print(f"embeddings in {first.embedding}, {first.bytes_per_image:,} bytes per gallery image")
    if (clustering := first.clustering) is not None:
        console.print(f"NMI and AMI of {clustering.clusters:,} clusters of {clustering.images:,} gallery images")
    if first.approximate is not None:
        _report_approximate(console, first, first.approximate)
    if output is not None:
        content: dict[str, Any] = {"queries": exact.queries, "skipped": exact.skipped, "protocol": asdict(protocol)}
        if len(results) == 1:
            content |= {"embedding": str(first.embedding), **_content(first)}
        else:
            content["embeddings"] = {str(each.embedding): _content(each) for each in results}
        write_text(output, json.dumps(content, indent=1) + "\n")
        console.print(f"scores of every query: {output}")


def _scores_table(result: Evaluated, title: str) -> Table:
    table = Table(title=title, box=HORIZONTALS, show_header=False)
    table.add_column("metric")
    table.add_column("percent", justify="right")
    for name, value in (result.means | result.clusters).items():
        table.add_row(name, f"{100 * value:.2f}")
    return table


def _formats_table(results: Sequence[Evaluated], title: str) -> Table:
    table = Table(title=title, box=HORIZONTALS)
    recall = f"R@{min(results[0].exact.recall)}"
    scores = ["mAP", recall, *results[0].clusters]
    for column in ("embedding", "bytes", *scores):
        table.add_column(column, justify="left" if column == "embedding" else "right")
    for result in results:
        values = result.means | result.clusters
        fractions = [f"{100 * values[name]:.2f}" for name in scores]
        table.add_row(str(result.embedding), f"{result.bytes_per_image:,}", *fractions)
    return table


def _report_approximate(console: Console, result: Evaluated, scores: ApproximateScores) -> None:
    name = f"{scores.index}, {scores.parameters}" if scores.parameters else scores.index
    table = Table(title=f"approximate search: {name}", box=HORIZONTALS)
    for column in ("", "exact", "approximate"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("mAP", f"{100 * result.exact.mAP:.2f}", f"{100 * scores.mAP:.2f}")
    for k, value in scores.recall.items():
        table.add_row(f"R@{k}", f"{100 * result.exact.recall[k]:.2f}", f"{100 * value:.2f}")
    table.add_row(f"recall of the {min(10, scores.k)} nearest", "100.00", f"{100 * scores.neighbor_recall:.2f}")
    table.add_row("seconds to build the index", "", f"{scores.build_seconds:.3f}")
    table.add_row("seconds to search and score", f"{result.exact_seconds:.3f}", f"{scores.search_seconds:.3f}")
    console.print(table)
    console.print(
        f"approximate scores are of the first {scores.k:,} entries of every ranked list; they can exceed the exact "
        "ones, because the index also misses negatives"
    )


def _content(result: Evaluated) -> dict[str, Any]:
    """Return the JSON content of one result."""
    per_query = {name: _to_json(getattr(result.exact, name).tolist()) for name in result.exact.per_query()}
    content = {"bytes_per_image": result.bytes_per_image, "scores": result.means, "per_query": per_query}
    if result.clustering is not None:
        content["clustering"] = asdict(result.clustering)
    if (scores := result.approximate) is not None:
        content["approximate"] = {
            "index": scores.index,
            "parameters": scores.parameters,
            "k": scores.k,
            "neighbor_recall": scores.neighbor_recall,
            "scores": {"mAP": scores.mAP, **{f"R@{k}": value for k, value in scores.recall.items()}},
            "seconds": {
                "exact": result.exact_seconds,
                "build": scores.build_seconds,
                "search": scores.search_seconds,
            },
        }
    return content


def _to_json(values: Any) -> Any:
    """Replace NaN by None in nested lists of numbers, because JSON has no NaN."""
    if isinstance(values, list):
        return [_to_json(value) for value in values]
    return None if values != values else values
