"""The base class of methods that insert compactors into the student."""

import copy
import operator
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmark.compression.compactor import CompactorSite, row_sites
from benchmark.compression.compression_method import CompressionMethod
from benchmark.compression.lasso import TINY, edit_gradients, group_norms
from benchmark.compression.width_cost import PrunedChannels
from benchmark.errors import UserError
from benchmark.method import Budget, Ceilings, Plan, Progress, RecipePlan
from benchmark.model.embedder import Embedder
from benchmark.model.surgery import ChannelSelection


class CompactorMethod(CompressionMethod):
    """A method whose student starts as large as its teacher and loses rows of compactors until a budget is met.

    Rows with a norm below `threshold` are removed, the smallest first, and no more than the budget requires. This
    happens at the end of every epoch (`dynamic`) or once after training. Compression ends when the budget is met. After
    training, the compactors are folded into the adjacent convolutions. A site may have columns removed instead of rows.

    Args:
        threshold: Rows with a smaller norm are removed.
        dynamic: Remove rows during training.
        budget: The cost at which compression ends; None for no limit.
        fixed_widths: Number of rows of every compactor from the start, in which case nothing is removed; empty for all
            rows.
    """

    strength: float
    """Weight of the lasso; set in `prepare`."""

    def __init__(
        self, threshold: float, dynamic: bool, budget: Budget | None, fixed_widths: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.threshold, self.dynamic, self.budget, self.fixed_widths = threshold, dynamic, budget, fixed_widths
        self.step = 0
        self.compressing = not fixed_widths

    def sites(self, network: Embedder) -> Sequence[CompactorSite]:
        """Return the sites of compactors in a network, whether they are inserted or not."""
        return row_sites(network)

    def channels(self, network: Embedder) -> Sequence[PrunedChannels]:
        return self.sites(network)

    @property
    def masks(self) -> Sequence[Tensor]:
        """For each site (width,), 0 where the gradient of the loss is reset; empty for a method without masks."""
        return []

    def rows_kept(self, site: int, index: Tensor) -> None:
        """Called after site number `site` was narrowed to the rows `index` (int64, ascending)."""

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        super().check(student, teacher, plan)
        sites = self.sites(student)
        if not self.needs.same_backbone or teacher is None:
            return
        if [(s.name, s.width) for s in sites] != [(s.name, s.width) for s in self.sites(teacher)]:
            raise UserError(
                f"{self.name}: the student must start with the teacher's architecture; leave `student` at "
                "`{like: teacher}`, or give both the same backbone and args"
            )
        possible = [site.width for site in sites]
        if self.fixed_widths and not (
            len(self.fixed_widths) == len(possible) and all(map(operator.le, self.fixed_widths, possible))
        ):
            raise UserError(
                f"{self.name}: fixed_widths ({list(self.fixed_widths)}) must be a number for each compactor of the "
                f"student, of at most {possible}"
            )

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        super().prepare(student, teacher, plan)
        self.plan = plan
        sites = self.sites(student)
        for site in sites:
            site.insert()
        for site, width in zip(sites, self.fixed_widths, strict=bool(self.fixed_widths)):
            site.keep(torch.arange(width))
        self.widths = [site.width for site in sites]

    def after_backward(self, student: Embedder) -> None:
        if self.compressing:
            sites = self.sites(student)
            edit_gradients(
                [site.weight for site in sites],
                self.strength,
                masks=self.masks,
                floor=max(self.lasso_floor(), TINY),
                dims=[site.dim for site in sites],
            )
        self.step += 1

    def lasso_floor(self) -> float:
        """Return the norm below which the gradient of the lasso shrinks with the row.

        It is the length of an optimizer step: within it, the full gradient would carry a row across zero.
        """
        return self.plan.learning_rate(self.step) * self.strength / (1 - self.plan.momentum)

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        return self._remove_rows(student) if self.dynamic else []

    def structure(self) -> dict[str, Any]:
        return {"widths": list(self.widths)}

    def restore(self, student: Embedder, structure: dict[str, Any]) -> None:
        # Only shapes matter here: the weights and buffers of the remaining rows come from the checkpoint.
        self.widths = list(structure["widths"])
        for i, (site, width) in enumerate(zip(self.sites(student), self.widths, strict=True)):
            if width < site.width:
                index = torch.arange(width)
                site.keep(index)
                self.rows_kept(i, index)

    def report(self, student: Embedder) -> dict[str, float]:
        masked = {"masked": sum(float((mask == 0).sum()) for mask in self.masks)} if self.masks else {}
        report = super().report(student)
        return {"channels": report["channels"], **masked, **report}

    def ceilings(self, student: Embedder, image_size: tuple[int, int]) -> Ceilings | None:
        return None if self.fixed_widths else super().ceilings(student, image_size)

    def minimal_student(self, student: Embedder) -> Embedder:
        return self.merged_copy(student, [1] * len(self.widths))

    def compact(self, student: Embedder) -> Embedder:
        self._remove_rows(student)
        for site in self.sites(student):
            site.merge()
        return student

    def get_extra_state(self) -> Tensor:
        """Return the position in the training. A tensor, because a checkpoint holds tensors only."""
        return torch.tensor([self.step, int(self.compressing)])

    def set_extra_state(self, state: Tensor) -> None:
        self.step, self.compressing = int(state[0]), bool(state[1])

    def merged_copy(self, student: Embedder, widths: Sequence[int]) -> Embedder:
        """Return a copy of the student, in eval mode, with merged compactors of other widths.

        It keeps the first rows of every compactor, so only its cost is meaningful.
        """
        merged = copy.deepcopy(student).eval()
        for site, width in zip(self.sites(merged), widths, strict=True):
            site.keep(torch.arange(width))
            site.merge()
        return merged

    def _remove_rows(self, student: Embedder) -> list[ChannelSelection]:
        """Remove rows below the threshold, smallest first, and no more than the budget requires."""
        if not self.compressing:
            return []
        sites = self.sites(student)
        norms = [group_norms(site.weight.detach(), site.dim).cpu() for site in sites]
        candidates = sorted(
            (float(norm), i, row)
            for i, site_norms in enumerate(norms)
            for row, norm in enumerate(site_norms)
            # The largest row of a site remains; if several are equally large, all of them.
            if norm < self.threshold and norm < site_norms.max()
        )
        candidates = candidates[: self._removals(sites, [i for _, i, _ in candidates])]
        changes: list[ChannelSelection] = []
        for i, site in enumerate(sites):
            removed = {row for _, j, row in candidates if j == i}
            if removed:
                index = torch.tensor([row for row in range(len(norms[i])) if row not in removed])
                changes += site.keep(index)
                self.rows_kept(i, index)
        self.widths = [site.width for site in sites]
        return changes

    def _removals(self, sites: Sequence[CompactorSite], order: Sequence[int]) -> int:
        """Return how many rows to remove, in a given order of sites, and end compression if that meets the budget."""
        budget = self.budget
        if budget is None:
            return len(order)
        widths = [site.width for site in sites]

        def meets_budget(removed: int) -> bool:
            remaining = [width - order[:removed].count(i) for i, width in enumerate(widths)]
            return budget.is_met(self.cost.size(remaining), self.reference)

        if not meets_budget(len(order)):
            return len(order)
        self.compressing = False
        return bisect_left(range(len(order)), True, key=meets_budget)
