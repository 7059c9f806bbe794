"""What a training step costs, method by method."""

from pathlib import Path
from typing import Self

from pydantic import ValidationError

from benchmark.errors import UserError
from benchmark.results.record import Amount, Count, Part
from benchmark.utils.atomic import write_text


class StepCosts(Part):
    """Time of a training step of every method as a multiple of that of `none`, measured in one run.

    `tools/step_cost.py` measures them: `ratios` are medians over `rounds` in which the methods take turns, each
    with its default recipe on the dataset, at the start of the training (a method that compresses gets faster).
    """

    dataset: str
    device: str
    threads: Count
    torch: str
    batch: Count
    rounds: Count
    ratios: dict[str, Amount]

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The costs in `path`; None where there is no such file.

        Raises:
            UserError: The file is not what `write` writes.
        """
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a file of step costs: {error}") from error
