"""The story of one run: teacher, student, compact, evaluate, record."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from benchmark.data.card import Split
from benchmark.data.check import warnings
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import SPLITS
from benchmark.engine.hooks import note_skipped, read_metrics, read_skipped
from benchmark.engine.train import LAST, train, uses_bfloat16
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import device_name, environment, use_threads
from benchmark.experiment.folders import RunFolders
from benchmark.method import Method
from benchmark.model import cost
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_student, load_weights, save_student, weights_hash
from benchmark.recipe import Evaluate, Plugin, Recipe
from benchmark.recipe import Network as NetworkSettings
from benchmark.recipe.sections import RULES
from benchmark.registry import METHODS
from benchmark.results import record as parts
from benchmark.results.record import Record
from benchmark.retrieval import Scores
from benchmark.utils.atomic import write_text
from benchmark.version import commit

EXAMPLES = 256
"""Real images on which training-time and deployed embeddings are compared."""


@dataclass
class TrainedTeacher:
    """A teacher as methods use it (with classifier head), as it is deployed, and what a record says about it."""

    network: Embedder
    deployed: Embedder
    report: parts.TeacherReport


class Experiment:
    """One run of one recipe, in `work_dir/<dataset>/<method>/seed<k>-<hash>/`.

    Args:
        recipe: What to do.
        work_dir: Where runs live; trained teachers are shared there.
        data_root: Where datasets live.
        device: Where to compute.
        resume: Whether to continue an unfinished run.
    """

    def __init__(self, recipe: Recipe, work_dir: Path, data_root: Path, device: torch.device, resume: bool) -> None:
        self.device = device
        self.resume = resume
        self.commit = commit()  # the code in this process, whatever is checked out by the time it ends
        self.test = TestSet.from_recipe(recipe, data_root, device)
        self.dataset: RetrievalDataset = self.test.dataset
        options = {name: getattr(self.dataset, name) for name in recipe.dataset.arguments}
        self.recipe = recipe.model_copy(update={"dataset": Plugin(name=recipe.dataset.name, **options)})
        """The recipe given, with the dataset's options as the dataset understood them."""
        self.folders = RunFolders(work_dir, self.dataset)

    def run(self) -> Record:
        """Do whatever of the run is not done yet, and return its record.

        Raises:
            UserError: Something that the recipe names is not there or does not fit, the run is unfinished and not to be
                resumed, or its folder cannot be written.
        """
        return self._reported(self.recipe, self.folder, self._teacher)

    def run_teacher(self) -> Record:
        """Do whatever of the teacher's own run is not done yet, and return its record.

        Raises:
            UserError: As `run` does.
        """
        recipe = self.recipe.for_teacher()
        return self._reported(recipe, self.folders.folder(recipe, "teacher"), lambda: None)

    def _reported(self, recipe: Recipe, folder: Path, teacher: Callable[[], TrainedTeacher | None]) -> Record:
        use_threads(recipe.runtime.threads)
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # as convolutions have by default
        try:
            return self._run(recipe, folder, teacher)
        except OSError as error:
            raise UserError(f"{error.filename or folder}: {error.strerror or error}") from error
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; the same command with --resume continues")
            raise

    def _run(self, recipe: Recipe, folder: Path, teacher: Callable[[], TrainedTeacher | None]) -> Record:
        record = self.folders.file(recipe, folder, "record.json")
        with _locked(folder):
            if record.exists():
                earlier = self._earlier(record)
                self._tell(f"{folder} holds the result of {earlier.created[:10]}; delete the folder to do it again")
                return earlier
            unfinished = (folder / LAST).exists() and not any(folder.glob("record*.json"))
            if unfinished and not self.resume:
                raise UserError(f"{folder} holds an unfinished run: add --resume to continue it, or delete the folder")
            self.dataset.prepare()
            for warning in warnings(self.dataset):
                self._tell(f"{self.dataset.name}: {warning}")
            return self._distil(recipe, folder, teacher())

    @staticmethod
    def _tell(line: str) -> None:
        Console(stderr=True).print(line, highlight=False, soft_wrap=True, markup=False)

    @property
    def folder(self) -> Path:
        """Where this run lives."""
        return self.folders.folder(self.recipe, self.recipe.method.name)

    @property
    def record(self) -> Path:
        """Where its record is, or will be."""
        return self.folders.file(self.recipe, self.folder, "record.json")

    @property
    def teacher_record(self) -> Path:
        """Where the record of the teacher is, or will be."""
        given = self.recipe.teacher.checkpoint
        if given:
            return Path(given) / "record.json"
        recipe = self.recipe.for_teacher()
        return self.folders.file(recipe, self.folders.folder(recipe, "teacher"), "record.json")

    def _earlier(self, path: Path) -> Record:
        """The record of an earlier run.

        Raises:
            UserError: It saw other data, or left out images and this one is not to.
        """
        record = Record.read(path)
        if self.dataset.folder.is_dir() and (changes := list(self.changes(record.data))):
            raise UserError(
                f"{path.parent} is of an earlier run on other data ({', '.join(changes)}): delete the folder to do it "
                "again with what is there now, or give another --work-dir"
            )
        if record.data.broken and not self.recipe.runtime.skip_broken:
            raise UserError(
                f"{path.parent} is of an earlier run, which left out {record.data.broken} broken images: add "
                "--skip-broken to take its result, or delete the folder to do it again with all of them"
            )
        return record

    def changes(self, before: parts.Data) -> Iterator[str]:
        """By what the data differ from those of an earlier run."""
        now = self._data()
        nothing = parts.Split(images=0, identities=0, cameras=0)
        for split, counts in now.splits.items():
            then = before.splits.get(split, nothing)
            for name, count in counts:
                if count != getattr(then, name):
                    yield f"{split}: {getattr(then, name):,} {name} then, {count:,} now"
        if now.fingerprint != before.fingerprint:
            yield "images of another content"

    def preview(self) -> list[str]:
        """Lines on what the run would work with: counts of the dataset, cost of the networks before training."""
        self.dataset.prepare()
        data = self._data()
        lines = [
            f"{split}: {counts.images} images, {counts.identities} identities, {counts.cameras} cameras"
            for split, counts in data.splits.items()
        ]
        lines += warnings(self.dataset)
        for name, settings in (("teacher", self.recipe.teacher.network), ("student", self.recipe.student)):
            network = Embedder(**settings.model_dump(exclude={"weights"}))
            size = cost.count(network, self.recipe.image_size)
            lines.append(
                f"{name}: {settings.title()}, {size.parameters / 1e6:.2f} M parameters, {size.macs / 1e6:.1f} M MACs = "
                f"{2 * size.macs / 1e6:.1f} M FLOPs"
            )
        return lines

    def _teacher(self) -> TrainedTeacher:
        """The recipe's teacher: from its checkpoint, from an earlier run, or trained now."""
        checkpoint = self.recipe.teacher.checkpoint
        if checkpoint is not None and not Path(checkpoint).is_dir():
            return self._given_teacher(Path(checkpoint))
        path = self.teacher_record
        folder = path.parent
        if checkpoint is None:
            with _locked(folder):  # another run may be training the same teacher
                if not path.exists():
                    self._distil(self.recipe.for_teacher(), folder, None)
        record = self._earlier(path)
        if checkpoint is not None and not self._judged_alike(record):
            return self._given_teacher(folder / LAST)
        network = self._build(self.recipe.teacher.network.model_copy(update={"weights": "random"}))
        load_weights(network, folder / LAST)
        report = parts.TeacherReport(
            record=record.id, network=record.network.name, cost=record.network.cost, scores=record.scores.symmetric
        )
        return TrainedTeacher(network, load_student(folder / "student.pt", self.device), report)

    def _judged_alike(self, record: Record) -> bool:
        """Whether a record's scores are of this recipe's benchmark."""
        rules = {key: value for key, value in record.recipe.get("evaluate", {}).items() if key in RULES}
        return record.recipe.get("dataset") == self.recipe.dataset.model_dump() and (
            Evaluate.model_validate(rules).non_default() == self.recipe.evaluate.non_default()
        )

    def _given_teacher(self, path: Path) -> TrainedTeacher:
        network = self._build(self.recipe.teacher.network.model_copy(update={"weights": "random"}))
        load_weights(network, path, trained=True)
        if network.head is None and self._method(self.recipe).needs.classifier:
            raise UserError(
                f"{self.recipe.method.name} needs the teacher's classifier, and {path} has none for the "
                f"{len(self.dataset.labels)} training identities of {self.dataset.name}"
            )
        network.eval()
        deployed = _without_head(fold_batchnorm(network, self.test.example(2)))
        scores = self.test.score(self.test.embed(deployed, "query"), self.test.embed(deployed, "gallery"))
        report = parts.TeacherReport(
            record=None,
            network=self.recipe.teacher.network.title(),
            cost=self._cost(deployed),
            scores=_scores(scores),
        )
        return TrainedTeacher(network, deployed, report)

    def _distil(self, recipe: Recipe, folder: Path, teacher: TrainedTeacher | None) -> Record:
        """Train, compact, evaluate, record. Without a teacher, `recipe` is a teacher's own."""
        write_text(self.folders.file(recipe, folder, "recipe.yaml"), recipe.yaml())
        torch.manual_seed(recipe.seed)
        student = self._build(recipe.student, teacher)
        method = self._method(recipe)
        role = "student" if teacher else "teacher"
        trained = train(
            recipe,
            self.test,
            student,
            teacher.network if teacher and method.needs.teacher else None,
            method,
            folder,
            self.device,
            True,  # what is unfinished and not to be resumed has been refused
            f"{role} {recipe.method.name}" if teacher else role,
        )

        begin = time.perf_counter()
        images = self.test.example(EXAMPLES)
        with torch.no_grad():  # taps need tensors that count their changes, which inference mode does not give
            before = trained.student.features(images).embedding
            minimal = method.minimal_student(trained.student) if method.compresses else None
            compact = _without_head(fold_batchnorm(trained.method.compact(trained.student), images[:2]))
        save_student(compact, folder / "student.pt", recipe.image_size)
        deployed = load_student(folder / "student.pt", self.device)  # what is measured is what the file holds
        with torch.inference_mode():
            difference = float((deployed(images) - before).abs().max())

        query, gallery = self.test.embed(deployed, "query"), self.test.embed(deployed, "gallery")
        symmetric = self.test.score(query, gallery)
        asymmetric: Scores | None = None
        reason: str | None = parts.OF_TEACHER
        if teacher:
            reason = None
            if not method.aligned:
                reason = parts.NOT_ALIGNED
            elif deployed.dim != teacher.deployed.dim:
                reason = f"embeddings differ in size: {deployed.dim} and {teacher.deployed.dim}"
            else:
                asymmetric = self.test.score(query, self.test.embed(teacher.deployed, "gallery"))
        figures = self._cost(deployed)
        note_skipped(folder, self.test.images.images.broken())
        record = Record(
            role=role,
            id=Record.make_id(recipe.hash, role),
            dataset=recipe.dataset.name,
            method=recipe.method.name,
            seed=recipe.seed,
            recipe_hash=recipe.hash,
            recipe=recipe.model_dump(mode="json"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=self.commit,
            data=self._data(len(read_skipped(folder))),
            variant=self._variant(),
            network=parts.Network(
                name=recipe.student.title(compressed=method.compresses),
                embedding=deployed.dim,
                cost=figures,
                weights=weights_hash(deployed),
            ),
            teacher=teacher.report if teacher else None,
            scores=parts.ScoreReport(
                symmetric=_scores(symmetric),
                asymmetric=_scores(asymmetric) if asymmetric else None,
                asymmetric_reason=reason,
                average_precision=tuple(
                    None if value != value else round(value, 5) for value in symmetric.average_precision.tolist()
                ),
            ),
            saved=self._saved(figures, teacher.report.cost, minimal) if teacher else None,
            deploy=parts.DeployCheck(max_abs_difference=difference, images=len(images)),
            budget=self._budget(method, figures, teacher.report.cost) if teacher else None,
            environment=environment(self.device, uses_bfloat16(recipe, self.device)),
            timing=parts.Timing(
                train_seconds=sum(row.get("seconds", 0.0) for row in read_metrics(folder)),
                evaluate_seconds=time.perf_counter() - begin,
            ),
        )
        record.write(self.folders.file(recipe, folder, "record.json"))
        return record

    @staticmethod
    def _method(recipe: Recipe) -> Method:
        return METHODS.find(recipe.method.name)(**recipe.method.arguments)

    def _build(self, settings: NetworkSettings, teacher: TrainedTeacher | None = None) -> Embedder:
        """A network on the device, with the weights that the recipe starts it from."""
        network = Embedder(
            **settings.model_dump(exclude={"weights"}),
            identities=len(self.dataset.labels),
            pretrained=settings.weights == "imagenet",
        )
        if settings.weights == "teacher":
            if teacher is None:
                raise UserError("teacher.network.weights: teacher is for a student; a teacher cannot start from itself")
            try:
                network.load_state_dict(teacher.network.state_dict(), strict=True)
            except RuntimeError as error:
                raise UserError(f"student.weights: teacher needs the teacher's own architecture. {error}") from error
        elif settings.weights not in ("imagenet", "random"):
            load_weights(network, Path(settings.weights))
        return network.to(self.device).to(memory_format=torch.channels_last)

    def _cost(self, deployed: Embedder) -> parts.Cost:
        size = cost.count(deployed, self.recipe.image_size)
        return parts.Cost(
            parameters=size.parameters,
            macs=size.macs,
            flops=2 * size.macs,
            image_size=self.recipe.image_size,
            latency_ms={
                str(batch): milliseconds
                for batch, milliseconds in cost.latency(deployed, self.recipe.image_size, self.device).items()
            },
            peak_memory_mb=cost.peak_memory(deployed, self.recipe.image_size, self.device),
            device=device_name(self.device),
            threads=torch.get_num_threads(),
        )

    def _variant(self) -> dict[str, Any]:
        """By what the benchmark differs from the dataset's usual one: keys of the recipe, and their values."""
        variant = {f"dataset.{option}": value for option, value in self.dataset.non_default_options().items()}
        return variant | {f"evaluate.{rule}": value for rule, value in self.recipe.evaluate.non_default().items()}

    def _data(self, broken: int = 0) -> parts.Data:
        counts = {split: Split.of(getattr(self.dataset, split)) for split in SPLITS}
        return parts.Data(
            fingerprint=self.dataset.fingerprint(),
            splits={split: parts.Split(**asdict(count)) for split, count in counts.items()},
            protocol=asdict(self.test.protocol),
            versions=self.dataset.versions(),
            skipped={
                f"{split}: {reason}": files
                for split, listing in self.dataset.listings.items()
                for reason, files in listing.skipped.items()
            },
            broken=broken,
        )

    def _saved(self, student: parts.Cost, teacher: parts.Cost, minimal: Embedder | None) -> parts.Savings:
        least = None
        if minimal is not None:
            least = cost.count(fold_batchnorm(minimal, self.test.example(2)), self.recipe.image_size)
        return parts.Savings(
            parameters=1 - student.parameters / teacher.parameters,
            macs=1 - student.macs / teacher.macs,
            ceiling_parameters=None if least is None else 1 - least.parameters / teacher.parameters,
            ceiling_macs=None if least is None else 1 - least.macs / teacher.macs,
        )

    @staticmethod
    def _budget(method: Method, student: parts.Cost, teacher: parts.Cost) -> parts.Budget | None:
        if method.budget is None:
            return None
        kind, target = method.budget.kind, method.budget.target
        reached = getattr(student, kind) / getattr(teacher, kind)
        return parts.Budget(kind=kind, target=target, reached=reached, met=reached <= target)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the run's folder; wait where another process works in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the run's folder {folder} cannot be made: {error.strerror}") from error
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        Console(stderr=True).print(f"waiting for another process that works in {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _without_head(network: Embedder) -> Embedder:
    network.head = None
    return network


def _scores(scores: Scores) -> parts.Scores:
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
