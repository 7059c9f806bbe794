"""What the methods share that put compactors into a student."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmark.compression.compactor import Compactable, compactable_blocks
from benchmark.compression.compression_method import CompressionMethod
from benchmark.compression.lasso import edit_gradients, group_norms
from benchmark.errors import UserError
from benchmark.method import Budget, Plan, Progress, RecipePlan
from benchmark.model.cost import Size
from benchmark.model.embedder import Embedder
from benchmark.model.residual_blocks import deployed_size, fewest
from benchmark.model.surgery import ChannelSelection


class CompactorMethod(CompressionMethod):
    """A method whose student starts as large as its teacher and loses rows of compactors until a budget is met.

    Rows below `threshold` are removed, the smallest first, at the end of every epoch (`dynamic`) or once at the end of
    training, and no more than the budget asks for; when it is met, compression is over. At the end the compactors are
    folded into the convolutions beside them. Rows stand for columns where a place has those removed.

    Args:
        threshold: Rows with a smaller norm are removed.
        dynamic: Remove rows during training.
        budget: Where to stop; None for never.
    """

    strength: float
    """The lasso's weight; set in `prepare`."""

    def __init__(self, threshold: float, dynamic: bool, budget: Budget | None) -> None:
        super().__init__()
        self.threshold, self.dynamic, self.budget = threshold, dynamic, budget
        self.step = 0
        self.compressing = True

    def places(self, network: Embedder) -> Sequence[Compactable]:
        """Where the compactors are, or go."""
        return compactable_blocks(network)

    @property
    def masks(self) -> Sequence[Tensor]:
        """Per place (width,), 0 where the objective's gradient is reset; nothing for a method that resets none."""
        return []

    def kept(self, place: int, index: Tensor) -> None:
        """Called after a place has lost rows: of its rows, only `index`, ascending, remain."""

    def insert(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        """Put the compactors into the student; what it is compared with is the teacher's cost."""
        self.plan = plan
        self.reference = deployed_size(teacher or student, plan.image_size)
        places = self.places(student)
        for place in places:
            place.insert()
        self.widths = [place.width for place in places]

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        self.places(student)
        if self.needs.same_backbone and teacher is not None:
            self.expect_alike(student, teacher)

    def expect_alike(self, student: Embedder, teacher: Embedder) -> None:
        """Compare the two, block by block.

        Raises:
            UserError: They differ.
        """
        widths = [[(place.where, place.width) for place in self.places(network)] for network in (student, teacher)]
        if widths[0] != widths[1]:
            raise UserError(
                f"{self.name}'s student starts as large as its teacher, block by block: leave `student` as "
                "`{like: teacher}`, or give both the same backbone and args"
            )

    def after_backward(self, student: Embedder) -> None:
        if self.compressing:
            places = self.places(student)
            edit_gradients(
                [place.weight for place in places],
                self.masks or None,
                self.strength,
                max(self.reach(), 1e-12),
                [place.dim for place in places],
            )
        self.step += 1

    def reach(self) -> float:
        """The norm below which the lasso's pull weakens.

        It is a step's length: closer to zero than this, the full pull would carry a row across.
        """
        return self.plan.learning_rate(self.step) * self.strength / (1 - self.plan.momentum)

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        return self._remove_rows(student) if self.dynamic else []

    def structure(self) -> dict[str, Any]:
        return {"widths": list(self.widths)}

    def restore(self, student: Embedder, structure: dict[str, Any]) -> None:
        # Which rows were kept is in the checkpoint's weights and buffers; here only the shapes must fit.
        self.widths = list(structure["widths"])
        for i, (place, width) in enumerate(zip(self.places(student), self.widths, strict=True)):
            if width < place.width:
                index = torch.arange(width)
                place.keep(index)
                self.kept(i, index)

    def report(self, student: Embedder) -> dict[str, float]:
        widths = [place.width for place in self.places(student)]
        size = self._size(student, widths)
        masked = {"masked": sum(float((mask == 0).sum()) for mask in self.masks)} if self.masks else {}
        return {"channels": sum(widths), **masked, "parameters": size.parameters, "macs": size.macs}

    def minimal_student(self, student: Embedder) -> Embedder:
        return self.merged(student, [1] * len(self.widths))

    def compact(self, student: Embedder) -> Embedder:
        self._remove_rows(student)
        for place in self.places(student):
            place.merge()
        return student

    def get_extra_state(self) -> Tensor:
        """Where training stands; a tensor, because checkpoints hold nothing else."""
        return torch.tensor([self.step, int(self.compressing)])

    def set_extra_state(self, state: Tensor) -> None:
        self.step, self.compressing = int(state[0]), bool(state[1])

    def merged(self, student: Embedder, widths: Sequence[int]) -> Embedder:
        """What would be deployed if the compactors had these many rows; which ones does not matter."""
        smaller = copy.deepcopy(student).eval()
        for place, width in zip(self.places(smaller), widths, strict=True):
            place.keep(torch.arange(width))
            place.merge()
        return smaller

    def _size(self, student: Embedder, widths: Sequence[int]) -> Size:
        return deployed_size(self.merged(student, widths), self.plan.image_size)

    def _remove_rows(self, student: Embedder) -> list[ChannelSelection]:
        """Remove rows below the threshold, smallest first, and no more than the budget asks for."""
        if not self.compressing:
            return []
        places = self.places(student)
        norms = [group_norms(place.weight.detach(), place.dim).cpu() for place in places]
        candidates = sorted(
            (float(norm), i, row)
            for i, place_norms in enumerate(norms)
            for row, norm in enumerate(place_norms)
            # At least the largest row of a place stays; where several are the largest, all of them.
            if norm < self.threshold and norm < place_norms.max()
        )
        candidates = candidates[: self._affordable(student, places, [i for _, i, _ in candidates])]
        changes: list[ChannelSelection] = []
        for i, place in enumerate(places):
            gone = {row for _, j, row in candidates if j == i}
            if gone:
                index = torch.tensor([row for row in range(len(norms[i])) if row not in gone])
                changes += place.keep(index)
                self.kept(i, index)
        self.widths = [place.width for place in places]
        return changes

    def _affordable(self, student: Embedder, places: Sequence[Compactable], order: Sequence[int]) -> int:
        """How many rows may go, in this order of their places, until the budget is met; then compression ends."""
        budget = self.budget
        if budget is None:
            return len(order)
        widths = [place.width for place in places]
        allowed = budget.target * budget.cost(self.reference)

        def met(rows: int) -> bool:
            left = [width - order[:rows].count(i) for i, width in enumerate(widths)]
            return budget.cost(self._size(student, left)) <= allowed

        if not met(len(order)):
            return len(order)
        self.compressing = False
        return fewest(len(order), met)
