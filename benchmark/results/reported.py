"""Published results: shown apart from the results that were measured here."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError

from benchmark.errors import UserError, nearest
from benchmark.results.fields import FrozenModel
from benchmark.results.format import MISSING, Cell, Table, TableRow
from benchmark.utils import strict_yaml
from benchmark.utils.escape import markdown

Text = Annotated[str, Field(min_length=1)]
NOT_MEASURED = (
    "**These values were not measured here and are not comparable with the measured ones**: data, training, networks "
    "and evaluation are those of the source."
)


class ReportedResult(FrozenModel):
    """The published result of one method.

    Attributes:
        method: Name of the method.
        teacher: The teacher; None for a method without one.
        student: The student.
        figures: Values in percent or points, by the names that the source gives them.
        protocol: The evaluation protocol of the source.
        source: Where the values can be looked up.
        caveats: Restrictions, if any.
    """

    method: Text
    teacher: Text | None
    student: Text
    figures: Annotated[dict[Text, float], Field(min_length=1)]
    protocol: Text
    source: Text
    caveats: Text | None = None


class Reported(FrozenModel):
    """The published results on a dataset: the content of `reported/<leaderboard>.yaml`."""

    dataset: Text
    results: Annotated[tuple[ReportedResult, ...], Field(min_length=1)]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the results in `path`.

        Raises:
            UserError: The file is not valid; the message has one line per problem.
        """
        if not path.is_file():
            raise UserError(f"{path}: not a regular file; remove it")  # a named pipe would be waited for
        content = strict_yaml.read(path, "file of reported results", "dataset: cub200")
        try:
            reported = cls.model_validate(content)
        except ValidationError as error:
            problems = [(".".join(map(str, problem["loc"])), problem) for problem in error.errors()]
            raise UserError(
                "\n".join(
                    f"{path}: unknown key {key!r}{_nearest(problem['loc'])}"
                    if problem["type"] == "extra_forbidden"
                    else f"{path}: {key}: {problem['msg']}"
                    for key, problem in problems
                )
            ) from error
        if path.stem != reported.dataset and not path.stem.startswith(f"{reported.dataset}-"):
            raise UserError(
                f"{path}: dataset: {reported.dataset!r} does not match the name of the file; name the file after its "
                f"leaderboard: the dataset, then a dash and the variant if there is one"
            )
        return reported


def _nearest(location: tuple[int | str, ...]) -> str:
    model = Reported if len(location) == 1 else ReportedResult
    return nearest(str(location[-1]), model.model_fields)


def load_reported(folder: Path) -> dict[str, Reported]:
    """Load all published results in `folder`, by leaderboard; an absent folder holds none.

    Raises:
        UserError: A file is not valid.
    """
    return {path.stem: Reported.read(path) for path in sorted(folder.glob("[!.]*.yaml"), key=lambda path: path.stem)}


def reported_table(reported: Reported) -> Table:
    """Return a table with a row per result, in the order of the file."""
    headers = ["method", "teacher", "student", "values (percent, points)", "protocol", "source", "caveats"]
    return Table(headers, [TableRow(result.method, _cells(result)) for result in reported.results])


def _cells(result: ReportedResult) -> list[Cell]:
    values = "\n".join(markdown(f"{name}: {value}") for name, value in result.figures.items())
    before = [result.method, result.teacher, result.student]
    after = [result.protocol, result.source, result.caveats]
    return [*map(_text_cell, before), Cell(values), *map(_text_cell, after)]


def _text_cell(text: str | None) -> Cell:
    return Cell(MISSING if text is None else markdown(text))
