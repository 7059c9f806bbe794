"""Figures that others have published. They are never mixed with what was measured here."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError

from benchmark import plain_yaml
from benchmark.errors import UserError, nearest
from benchmark.results.record_parts import Part

Text = Annotated[str, Field(min_length=1)]


class ReportedResult(Part):
    """What a source says of one method, in percent or points, under the names that the figures have there.

    `teacher` is None where there is none. `source` says where to look it up, `protocol` how it was judged.
    """

    method: Text
    teacher: Text | None
    student: Text
    figures: Annotated[dict[Text, float], Field(min_length=1)]
    protocol: Text
    source: Text
    caveats: Text | None = None


class Reported(Part):
    """The published figures on a dataset: the content of `reported/<board>.yaml`."""

    dataset: Text
    results: Annotated[tuple[ReportedResult, ...], Field(min_length=1)]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the figures in `path`.

        Raises:
            UserError: A line for everything that is wrong with the file.
        """
        content = plain_yaml.read(path, "file of reported figures", "dataset: cub200")
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
                f"{path}: dataset: {reported.dataset!r} is not that of the file's name, which is the leaderboard's: "
                "the dataset, and after a dash what is unusual about it"
            )
        return reported


def _nearest(place: tuple[int | str, ...]) -> str:
    model = Reported if len(place) == 1 else ReportedResult
    return nearest(str(place[-1]), model.model_fields)


def load_reported(folder: Path) -> dict[str, Reported]:
    """All published figures in `folder`, by leaderboard; none where there is no such folder.

    Raises:
        UserError: A file is wrong.
    """
    return {path.stem: Reported.read(path) for path in sorted(folder.glob("[!.]*.yaml"), key=lambda path: path.stem)}
