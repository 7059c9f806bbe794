"""The content of a run's record."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from benchmark.data.check import is_published
from benchmark.engine.best_epoch import Selection
from benchmark.engine.files import StoredOutputs, read_metrics, read_skipped
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import device_name, environment
from benchmark.experiment.folders import RunFolder
from benchmark.experiment.inputs import describe_data, split_sizes
from benchmark.method import Ceilings, Method
from benchmark.model import cost
from benchmark.model.cost import Size
from benchmark.model.embedder import Embedder
from benchmark.model.latency import latency
from benchmark.model.serialize import weights_hash
from benchmark.recipe import Recipe
from benchmark.results import parts
from benchmark.results.record import Record
from benchmark.retrieval import Embeddings, Scores
from benchmark.utils.distributed import on_main
from benchmark.utils.precision import autocast_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A trained network in its deployed form (compact, batch norm folded, no classifier), and its evaluation."""

    network: Embedder
    query: Embeddings
    scores: Scores
    """Scores with queries and gallery embedded by this network."""
    cost: parts.Cost
    minimal: Size | None
    """Cost of the smallest network that the method could have produced; None if it does not compress."""
    max_abs_difference: float
    """Largest difference between training-time and deployed embeddings."""
    checked_images: int
    """Number of images on which the difference was measured."""
    selection: Selection | None
    """The epoch that was selected on the validation images; None for the last one."""
    trained_at: float
    """`time.perf_counter()` at the end of the training, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """Additional content of a student's record."""

    teachers: Sequence[parts.TeacherReport]
    method: Method
    ceilings: Ceilings | None
    asymmetric: Scores | None
    """Scores of student queries in a teacher gallery; None if the embeddings cannot be compared."""
    asymmetric_reason: str | None
    """Why there are no asymmetric scores; None if there are."""


class Report:
    """The records of a run and of its teacher.

    Args:
        test: The test images.
        commit: Commit of the suite.
    """

    def __init__(self, test: TestSet, commit: str | None) -> None:
        self.test = test
        self.commit = commit
        self.device = torch.device(test.loading.device)

    def record(
        self, recipe: Recipe, folder: RunFolder, deployed: Deployed, distillation: Distillation | None = None
    ) -> Record:
        """Make the record of a trained and evaluated network.

        Args:
            recipe: The recipe that trained the network.
            folder: The run's folder.
            deployed: The network.
            distillation: Additional content of a student's record; None for a teacher.
        """
        role = "teacher" if distillation is None else "student"
        return Record(
            role=role,
            id=Record.make_id(recipe.hash, role),
            dataset=recipe.dataset.name,
            method=recipe.method.name,
            seed=recipe.seed,
            recipe_hash=recipe.hash,
            recipe=recipe.recorded(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=self.commit,
            data=describe_data(self.test, broken=len(read_skipped(folder.path))),
            variant=self._variant(recipe),
            network=parts.Network(
                name=recipe.student.title(compressed=deployed.minimal is not None),
                embedding=deployed.network.dim,
                cost=deployed.cost,
                weights=weights_hash(deployed.network),
            ),
            teacher=distillation.teachers[0] if distillation else None,
            more_teachers=tuple(distillation.teachers[1:]) if distillation else (),
            scores=_score_report(deployed.scores, distillation),
            saved=_saved(deployed, distillation) if distillation else None,
            deploy=parts.DeployCheck(max_abs_difference=deployed.max_abs_difference, images=deployed.checked_images),
            budget=_budget(deployed.cost, distillation) if distillation else None,
            embedding=recipe.evaluate.embedding,
            bytes_per_image=recipe.evaluate.embedding_format.bytes_per_image(deployed.network.dim),
            teacher_outputs=_teacher_outputs(folder) if recipe.teacher.cached_views else None,
            selected=parts.Selected(**asdict(deployed.selection)) if deployed.selection else None,
            environment=environment(self.device, autocast_dtype(recipe.runtime.amp, self.device)),
            timing=parts.Timing(
                train_seconds=sum(row.get("seconds", 0.0) for row in read_metrics(folder.path)),
                evaluate_seconds=time.perf_counter() - deployed.trained_at,
            ),
        )

    def cost(self, deployed: Embedder) -> parts.Cost:
        """Count and measure the cost of a deployed network, on the run's device: of several processes, of the main one.

        Every process has to call it.
        """
        return on_main(lambda: self._cost(deployed))

    def measured_again(self, cost: parts.Cost, deployed: Embedder) -> parts.Cost:
        """Return the cost of a deployed network with its latency as it is now.

        Every process has to call it.
        """
        update = on_main(lambda: measured_latency(deployed, cost.image_size, self.device))
        return cost.model_copy(update=update)

    def _cost(self, deployed: Embedder) -> parts.Cost:
        image_size = self.test.loading.size
        size = cost.count(deployed, image_size)
        return parts.Cost(
            parameters=size.parameters,
            macs=size.macs,
            flops=2 * size.macs,
            image_size=image_size,
            **measured_latency(deployed, image_size, self.device),
            peak_memory_mb=cost.peak_memory(deployed, image_size, self.device),
        )

    def _variant(self, recipe: Recipe) -> dict[str, Any]:
        """Return what selects the leaderboard: non-default options by key, and whether images are not as published."""
        dataset = self.test.dataset
        variant = {f"dataset.{option}": value for option, value in dataset.non_default_options().items()}
        variant |= {f"evaluate.{key}": value for key, value in recipe.evaluate.non_default().items()}
        return variant | ({} if is_published(dataset, split_sizes(dataset)) else parts.NONSTANDARD)


def measured_latency(
    network: Callable[[Tensor], Tensor], image_size: tuple[int, int], device: torch.device
) -> dict[str, Any]:
    """Measure the latency of a network, and return it as the fields of `parts.Timed`.

    Args:
        network: Maps (B, 3, H, W) uint8 images on `device` to embeddings; in eval mode.
        image_size: (height, width).
        device: Where `network` is.
    """
    measured = latency(network, image_size, device)
    return {
        "latency_ms": {str(batch): each.median for batch, each in measured.of_batch.items()},
        "latency_range_ms": {str(batch): (each.low, each.high) for batch, each in measured.of_batch.items()},
        "latency_quartiles_ms": {str(batch): each.quartiles for batch, each in measured.of_batch.items()},
        "load": measured.load,
        "device": device_name(device),
        "threads": measured.threads,
    }


def mean_scores(scores: Scores) -> parts.Scores:
    """Return the mean scores in the format of a record."""
    return parts.Scores(
        mAP=scores.mAP,
        mINP=scores.mINP,
        recall={str(k): value for k, value in scores.recall.items()},
        mAP_at_R=scores.mAP_at_R,
        R_precision=scores.R_precision,
        precision={str(k): value for k, value in scores.precision.items()},
        queries=scores.queries,
        skipped=scores.skipped,
    )


def _score_report(symmetric: Scores, distillation: Distillation | None) -> parts.ScoreReport:
    asymmetric = distillation.asymmetric if distillation else None
    return parts.ScoreReport(
        symmetric=mean_scores(symmetric),
        asymmetric=mean_scores(asymmetric) if asymmetric else None,
        asymmetric_reason=distillation.asymmetric_reason if distillation else parts.IS_TEACHER,
        average_precision=tuple(
            None if value != value else round(value, 5)  # NaN: a query without a correct match
            for value in symmetric.average_precision.tolist()
        ),
    )


def _teacher_outputs(folder: RunFolder) -> parts.TeacherOutputs | None:
    outputs = StoredOutputs.read(folder.path)
    return None if outputs is None else parts.TeacherOutputs(**asdict(outputs))


def _saved(student: Deployed, distillation: Distillation) -> parts.Savings:
    """Return the fractions of the first teacher's cost that the student saves, and that the smallest one would save."""
    minimal, teacher, ceilings = student.minimal, distillation.teachers[0].cost, distillation.ceilings
    reset = None if ceilings is None else ceilings.reset
    return parts.Savings(
        parameters=1 - student.cost.parameters / teacher.parameters,
        macs=1 - student.cost.macs / teacher.macs,
        ceiling_parameters=None if minimal is None else 1 - minimal.parameters / teacher.parameters,
        ceiling_macs=None if minimal is None else 1 - minimal.macs / teacher.macs,
        reset_ceiling_parameters=None if reset is None else 1 - reset.parameters / teacher.parameters,
        reset_ceiling_macs=None if reset is None else 1 - reset.macs / teacher.macs,
    )


def _budget(student: parts.Cost, distillation: Distillation) -> parts.Budget | None:
    """Return the method's budget and whether the student meets it."""
    budget = distillation.method.budget
    if budget is None:
        return None
    reached = getattr(student, budget.kind) / getattr(distillation.teachers[0].cost, budget.kind)
    return parts.Budget(kind=budget.kind, target=budget.target, reached=reached, met=reached <= budget.target)
