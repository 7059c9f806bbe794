"""Measured cost of a training step of every method."""

from pathlib import Path
from typing import Self

from pydantic import ValidationError

from benchmark.errors import UserError
from benchmark.results.fields import Count, FrozenModel, Label, Name, NonNegative, Text, explain
from benchmark.utils import strict_json
from benchmark.utils.atomic import write_text


class StepCosts(FrozenModel):
    """Time of a training step of every method as a multiple of a step of `none`, as `tools/step_cost.py` measures it.

    Attributes:
        dataset: The dataset, whose default recipe every method uses.
        device: Where the steps were measured.
        threads: Number of threads.
        torch: Version of torch.
        batch: Images per batch.
        rounds: Number of rounds in which the methods took turns.
        ratios: Median over the rounds by method, at the start of training; a method that compresses gets faster later.
    """

    dataset: Name
    device: Text
    threads: Count
    torch: Text
    batch: Count
    rounds: Count
    ratios: dict[Label, NonNegative]

    def write(self, path: Path) -> None:
        """Write the costs as JSON, atomically."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the costs in `path`; None if there is no such file.

        Raises:
            UserError: The file is not valid.
        """
        if not path.is_file():
            return None
        try:
            return cls.model_validate(strict_json.read(path))
        except OSError as error:
            raise UserError(f"{path}: cannot read the step costs: {error.strerror}") from error
        except ValidationError as error:
            raise UserError(f"{path}: not a file of step costs: {explain(error)}") from error
        except ValueError as error:
            raise UserError(f"{path}: not a file of step costs: {error}") from error
