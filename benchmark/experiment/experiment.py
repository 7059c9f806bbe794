"""One run: train the teachers, distill the student, deploy and evaluate all."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.data.check import remarks
from benchmark.data.identity import require_unchanged
from benchmark.engine.best_epoch import Selection
from benchmark.engine.files import INPUTS_FILE, note_skipped
from benchmark.engine.teacher_outputs import FOLDER as OUTPUTS_FOLDER
from benchmark.errors import UserError
from benchmark.evaluation import TestSet
from benchmark.experiment.environment import device_name, use_threads
from benchmark.experiment.folders import RunFolder, resolved, student_folder, teacher_folder
from benchmark.experiment.inputs import Inputs, describe_data, require_same_data
from benchmark.experiment.networks import (
    deploy_teacher,
    for_each_teacher,
    frozen_teacher,
    initialized,
    teacher_from_file,
    untrained,
)
from benchmark.experiment.overview import first_lines
from benchmark.experiment.preflight import preflight
from benchmark.experiment.readiness import Training, require_frozen_teacher, require_ready
from benchmark.experiment.report import Deployed, Distillation, Report, mean_scores
from benchmark.method import Method
from benchmark.model import cost
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.plugin import is_plugin
from benchmark.model.serialize import load_network, save_student, write
from benchmark.model.weights import load_weights
from benchmark.recipe import Evaluate, Network, Recipe
from benchmark.recipe.sections import BOARD_KEYS
from benchmark.registry import METHODS
from benchmark.results.parts import NOT_ALIGNED, TeacherReport
from benchmark.results.record import Record
from benchmark.retrieval import Scores
from benchmark.utils.atomic import sweep, write_text
from benchmark.utils.console import notify
from benchmark.utils.distributed import from_all, held_by_main, on_main
from benchmark.utils.precision import full_precision, tf32_products
from benchmark.version import commit

CHECKED_IMAGES = 256
"""Maximum number of query images on which training-time and deployed embeddings are compared."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A trained teacher."""

    network: Embedder
    """The network as trained, with its classifier."""
    deployed: Embedder
    """The network without classifier and with batch norm folded; it embeds the gallery of asymmetric retrieval."""
    report: TeacherReport


class Experiment:
    """One run of one recipe, in `<work_dir>/<dataset>/<method>/seed<k>-<hash>/`.

    The recipe is checked here, before any image is read.

    Args:
        recipe: The complete recipe.
        work_dir: Folder of all runs. Trained teachers in it are shared.
        data_root: Folder of all datasets.
        device: Device of training and evaluation.
        resume: Continue an unfinished run instead of refusing it.

    Raises:
        UserError: The recipe cannot be run; see `preflight`.
    """

    def __init__(
        self, recipe: Recipe, *, work_dir: Path, data_root: Path, device: torch.device, resume: bool = False
    ) -> None:
        self.commit = commit()  # read now, because another commit may be checked out before the run ends
        self.preflight = preflight(recipe)
        self.test = TestSet.from_recipe(recipe, data_root, device)
        self.dataset = self.test.dataset
        self.recipe = resolved(recipe, self.dataset)
        self.folder = student_folder(self.recipe, work_dir)
        self.teacher_folders = [teacher_folder(part, work_dir) for part in self.recipe.per_teacher()]
        self.outputs_folder = work_dir / recipe.dataset.name / OUTPUTS_FOLDER
        self.report = Report(self.test, self.commit)
        self.device = device
        self.resume = resume

    @property
    def teacher_folder(self) -> RunFolder:
        """The folder of the only teacher, or of the first of several."""
        return self.teacher_folders[0]

    def run(self) -> Record:
        """Run what is not finished yet: the teachers, then the student.

        Returns:
            The record of the student.

        Raises:
            UserError: Data are missing, a file named in the recipe is missing or does not fit, the run is unfinished
                and `resume` is false, or its folder cannot be written.
        """
        return self._run(self.recipe, self.folder, self._distill, self.trainings())

    def run_teacher(self) -> Record:
        """Run the recipe's first teacher only, unless it is finished.

        Returns:
            The record of the teacher.

        Raises:
            UserError: For the same reasons as in `run`.
        """
        if is_plugin(self.recipe.teacher.network.backbone):
            raise UserError("a teacher of a plugin has no record: run a student, whose record has its scores")
        trainings = [training for training in self.trainings() if training.role == "teacher"]
        recipe, folder = self.recipe.for_teacher(), self.teacher_folder
        return self._run(recipe, folder, lambda: self._train_teacher(recipe, folder), trainings)

    def rehearse(self) -> None:
        """Make all checks that `run` makes before it trains, and print its first lines.

        Raises:
            UserError: For the same reasons as in `run`.
        """
        use_threads(self.recipe.runtime.threads)
        self.dataset.prepare()
        self._begin(self.recipe, self.folder, self.trainings())

    def trainings(self) -> list[Training]:
        """Return the trainings of this run that are not finished: the teachers', then the student's."""
        teachers = [part.for_teacher() for part in self.recipe.per_teacher()]
        parts = [
            *zip(self.recipe.teacher_keys, teachers, self.teacher_folders, self.preflight.teachers, strict=True),
            ("student", self.recipe, self.folder, self.preflight.student),
        ]
        return [
            Training(role=role, recipe=recipe, folder=folder, size=size)
            for role, recipe, folder, size in parts
            if not folder.record.exists() and (role == "student" or recipe.teacher.is_trained)
        ]

    def _begin(self, recipe: Recipe, folder: RunFolder, trainings: Sequence[Training]) -> Record | None:
        """Check that the trainings are possible, and print what is trained. The data are prepared.

        Returns:
            The record of the run if it is finished, else None.
        """
        if folder.record.exists():
            record = self._read_record(folder, recipe)
            notify(f"{folder.path} has the result of {record.created[:10]}; delete the folder to run it again")
            return record
        for training in trainings:  # another run may be training the same teacher, and this one then waits for it
            if training.folder == folder or not training.folder.is_in_use:
                self._require_resumable(training.folder)
        folders = iter(self.teacher_folders)
        for_each_teacher(self.recipe, lambda part: require_frozen_teacher(part, next(folders)))
        lines = [f"{self.dataset.name}: {remark}" for remark in remarks(self.dataset)]
        lines += [f"warning: {warning}" for warning in require_ready(trainings, self.dataset)]
        sizes = (*self.preflight.teachers, self.preflight.student)
        machine = (device_name(self.device), torch.get_num_threads())
        for line in (*first_lines(self.recipe, trainings, sizes, len(self.dataset.train), *machine), *lines):
            notify(line)
        return None

    def _run(
        self, recipe: Recipe, folder: RunFolder, train: Callable[[], Record], trainings: Sequence[Training]
    ) -> Record:
        use_threads(self.recipe.runtime.threads)
        try:
            with held_by_main(folder.locked()), tf32_products():
                on_main(lambda: sweep(self.dataset.root))
                self.dataset.prepare()
                record = on_main(lambda: self._begin(recipe, folder, trainings))
                return train() if record is None else record
        except OSError as error:
            raise UserError(f"{error.filename or folder.path}: {error.strerror or error}") from error

    def require_same_board(self, records: Path) -> None:
        """Raise a UserError if a folder of records has this run's record, or its teachers', of other data."""
        teachers = [part.for_teacher().hash for part in self.recipe.per_teacher()]
        ids = [Record.make_id(self.recipe.hash, "student"), *(Record.make_id(each, "teacher") for each in teachers)]
        known = {path: Record.read(path) for each in ids for path in sorted(records.glob(f"[!.]*-{each}.json"))}
        if known:
            self.dataset.prepare()
            require_same_data(known, describe_data(self.test), self.dataset)

    def _require_resumable(self, folder: RunFolder) -> None:
        if folder.is_unfinished and not self.resume:
            raise UserError(f"{folder.path} has an unfinished run: add --resume to continue it, or delete the folder")

    def _read_record(self, folder: RunFolder, recipe: Recipe | None = None) -> Record:
        """Read the record of an earlier run.

        Args:
            folder: The run's folder.
            recipe: The recipe of the run, whose files of weights must not have changed; None to not compare them.

        Raises:
            UserError: The run used other inputs, or it skipped broken images and this recipe has `skip_broken` false.
        """
        record = Record.read(folder.record)
        require_same_data({folder.path: record}, describe_data(self.test), self.dataset)
        if recipe is not None and (folder.path / INPUTS_FILE).exists():  # which runs of the first version lack
            Inputs.of(self.dataset, recipe).require_same(folder.path, self.dataset)
        if record.data.broken and not self.recipe.runtime.skip_broken:
            raise UserError(
                f"{folder.path} is from an earlier run that left out {record.data.broken} broken images: add "
                "--skip-broken to accept its result, or delete the folder to run it again with all images"
            )
        return record

    def _train_teacher(self, recipe: Recipe, folder: RunFolder) -> Record:
        """Train a teacher by its own recipe, or load it if it is frozen."""
        method = METHODS.find(recipe.method.name)(**recipe.method.arguments)
        if recipe.teacher.frozen:
            deployed = self._freeze_and_deploy(recipe, folder, method)
        else:
            deployed = self._train_and_deploy(recipe, folder, method, (), "teacher")
        return on_main(lambda: self._recorded(recipe, folder, deployed, None))

    def _distill(self) -> Record:
        parts = zip(self.recipe.per_teacher(), self.teacher_folders, strict=True)
        teachers, method = [self._teacher(part, folder) for part, folder in parts], self.preflight.method
        title, networks = f"student {self.recipe.method.name}", [teacher.network for teacher in teachers]
        deployed = self._train_and_deploy(self.recipe, self.folder, method, networks, title)
        asymmetric, reason = self._score_asymmetric(deployed, teachers[0])
        # Next to the student's: a teacher's record may be from another machine, or another hour of this one.
        costs = [self.report.measured_again(teacher.report.cost, teacher.deployed) for teacher in teachers]
        distillation = Distillation(
            teachers=[
                teacher.report.model_copy(update={"cost": cost}) for teacher, cost in zip(teachers, costs, strict=True)
            ],
            method=method,
            ceilings=self.preflight.ceilings,
            asymmetric=asymmetric,
            asymmetric_reason=reason,
        )
        return on_main(lambda: self._recorded(self.recipe, self.folder, deployed, distillation))

    def _recorded(
        self, recipe: Recipe, folder: RunFolder, deployed: Deployed, distillation: Distillation | None
    ) -> Record:
        """Write the record of a finished run."""
        record = self.report.record(recipe, folder, deployed, distillation)
        record.write(folder.record)
        return record

    def _train_and_deploy(
        self, recipe: Recipe, folder: RunFolder, method: Method, teachers: Sequence[Embedder], title: str
    ) -> Deployed:
        """Train a network, save its deployed form to `student.pt`, and evaluate the network loaded from that file."""
        from benchmark.engine.train import train  # imports mmengine, which commands without training do not need

        on_main(lambda: self._describe(recipe, folder))
        torch.manual_seed(recipe.seed)
        first = teachers[0] if teachers else None
        student = self._placed(initialized(recipe.student, len(self.dataset.labels), first))
        selection = train(
            student,
            teachers if method.needs.teacher else None,
            method,
            recipe=recipe,
            test=self.test,
            folder=folder.path,
            resume=True,  # `_run` refuses an unfinished run that must not be resumed
            title=title,
            outputs=self.outputs_folder,
        )
        if selection is not None:
            epochs = recipe.train.schedule.epochs
            notify(f"{title}: epoch {selection.epoch} of {epochs} has the highest validation mAP, {selection.mAP:.4f}")
        return self._deploy(recipe, folder, student, method, selection)

    def _freeze_and_deploy(self, recipe: Recipe, folder: RunFolder, method: Method) -> Deployed:
        """Load a teacher that is not trained, and save and evaluate it as a trained one."""
        on_main(lambda: self._describe(recipe, folder))
        network = self._placed(frozen_teacher(recipe.student, len(self.dataset.labels)))
        on_main(lambda: write({"student": network.state_dict()}, folder.checkpoint))
        return self._deploy(recipe, folder, network, method, None)

    def _deploy(
        self, recipe: Recipe, folder: RunFolder, student: Embedder, method: Method, selection: Selection | None
    ) -> Deployed:
        """Save the deployed form of a network to `student.pt`, and evaluate the network loaded from that file."""
        trained_at = time.perf_counter()
        images = self.test.first_queries(CHECKED_IMAGES)
        # Not in inference mode, whose tensors lack the version counters that taps read.
        with torch.no_grad(), full_precision(self.device):
            trained_embedding = student.features(images).embedding
            minimal = method.minimal_student(student) if method.compresses else None
            compact = _without_head(fold_batchnorm(method.compact(student), images[:2]))
        on_main(lambda: save_student(compact, folder.student, recipe.image_size, self.test.loading.background))
        network = load_network(folder.student, self.device)
        with torch.inference_mode(), full_precision(self.device):
            difference = float((network(images) - trained_embedding).abs().max())

        query, gallery = self.test.embed(network, "query"), self.test.embed(network, "gallery")
        scores = self.test.score(*self.test.stored(recipe.evaluate.embedding_format, network, query, gallery))
        broken = from_all(self.test.images.images.broken())
        on_main(lambda: note_skipped(folder.path, {path for paths in broken for path in paths}))
        on_main(lambda: require_unchanged(self.dataset))
        return Deployed(
            network=network,
            query=query,
            scores=scores,
            cost=self.report.cost(network),
            minimal=None if minimal is None else cost.count(fold_batchnorm(minimal, images[:2]), recipe.image_size),
            max_abs_difference=difference,
            checked_images=len(images),
            selection=selection,
            trained_at=trained_at,
        )

    def _describe(self, recipe: Recipe, folder: RunFolder) -> None:
        """Write the recipe and the inputs of a training, or check that an interrupted training had the same ones."""
        inputs = Inputs.of(self.dataset, recipe)
        if folder.checkpoint.exists():
            inputs.require_same(folder.path, self.dataset)
        else:
            inputs.write(folder.path)
        write_text(folder.recipe, recipe.yaml())

    def _placed(self, network: Embedder) -> Embedder:
        """Move a network to the device."""
        return network.to(self.device).to(memory_format=torch.channels_last)

    def _teacher(self, recipe: Recipe, folder: RunFolder) -> Teacher:
        """Return a teacher: from a checkpoint or an earlier run, or trained now.

        Args:
            recipe: The recipe with this teacher only.
            folder: The folder of the teacher.
        """
        settings = recipe.teacher.network
        if is_plugin(settings.backbone):
            return self._plugin_teacher(settings)
        if recipe.teacher.checkpoint is None:
            with held_by_main(folder.locked()):  # another run may be training the same teacher
                if not on_main(folder.record.exists):
                    on_main(lambda: self._require_resumable(folder))
                    self._train_teacher(recipe.for_teacher(), folder)
            record = on_main(lambda: self._read_record(folder, recipe.for_teacher()))
        elif not folder.path.is_dir():
            return self._teacher_from_weights(settings, folder.path)
        elif not self._same_benchmark(record := Record.read(folder.record)):
            self._require_same_identities(folder)
            return self._teacher_from_weights(settings, folder.checkpoint)
        else:
            record = self._read_record(folder)
        deployed_teacher = load_network(folder.student, self.device)
        deployed_teacher.input_size = None  # it may have been trained with images of another size
        identities = len(self.dataset.labels)
        network = untrained(settings, identities, deployed_teacher)
        load_weights(network, folder.checkpoint, trained=True)
        report = TeacherReport(
            record=record.id, network=record.network.name, cost=record.network.cost, scores=record.scores.symmetric
        )
        return Teacher(self._placed(network), deployed_teacher, report)

    def _teacher_from_weights(self, settings: Network, path: Path) -> Teacher:
        """Load and evaluate a teacher that has no record on this benchmark."""
        network = self._placed(teacher_from_file(settings, path, len(self.dataset.labels)))
        if network.head is None and self.preflight.method.needs.classifier:
            raise UserError(
                f"{self.recipe.method.name} needs the teacher's classifier, but {path} has none for the "
                f"{len(self.dataset.labels)} training identities of {self.dataset.name}"
            )
        return self._evaluated(settings, network, deploy_teacher(network, self.test.first_queries(2)))

    def _plugin_teacher(self, settings: Network) -> Teacher:
        """Create and evaluate a teacher of `TEACHERS`, which has no record."""
        identities = len(self.dataset.labels)
        network = self._placed(frozen_teacher(settings, identities))
        if network.head is not None and self.preflight.method.needs.classifier:
            with torch.inference_mode():
                logits = network.features(self.test.first_queries(2)).logits
            if logits.shape[1] != identities:
                raise UserError(
                    f"{settings.backbone} returns {logits.shape[1]} logits, but {self.dataset.name} has {identities} "
                    "training identities: choose a method that compares embeddings"
                )
        return self._evaluated(settings, network, network)

    def _evaluated(self, settings: Network, network: Embedder, teacher: Embedder) -> Teacher:
        """Evaluate a teacher that has no record.

        Args:
            settings: Its section of the recipe.
            network: The teacher as the method sees it.
            teacher: Its deployed form.
        """
        scores = self.test.score(self.test.embed(teacher, "query"), self.test.embed(teacher, "gallery"))
        report = TeacherReport(
            record=None,
            network=settings.title(),
            cost=self.report.cost(teacher),
            scores=mean_scores(scores),
        )
        return Teacher(network, teacher, report)

    def _same_benchmark(self, record: Record) -> bool:
        """Whether a record's scores were measured on this dataset with these evaluation settings."""
        settings = {key: value for key, value in record.recipe.get("evaluate", {}).items() if key in BOARD_KEYS}
        return record.recipe.get("dataset") == self.recipe.recorded()["dataset"] and (
            Evaluate.model_validate(settings).non_default() == self.recipe.evaluate.non_default()
        )

    def _require_same_identities(self, folder: RunFolder) -> None:
        """Refuse a teacher that was trained on other images if the method needs its classifier."""
        inputs = Inputs.read(folder.path)
        same = inputs is not None and inputs.training == self.dataset.identity.training
        if self.preflight.method.needs.classifier and not same:
            raise UserError(
                f"{self.recipe.method.name} needs the teacher's classifier, but {folder.path} was trained on other "
                "images: train one on these with --teacher train, or choose a method that compares embeddings or maps"
            )

    def _score_asymmetric(self, student: Deployed, teacher: Teacher) -> tuple[Scores | None, str | None]:
        """Return the scores of the student's queries in the teacher's gallery, or the reason why there are none."""
        if not self.preflight.method.aligned:
            return None, NOT_ALIGNED
        if student.network.dim != teacher.deployed.dim:
            return None, f"embeddings differ in size: {student.network.dim} and {teacher.deployed.dim}"
        gallery = self.test.embed(teacher.deployed, "gallery")
        embedding = self.recipe.evaluate.embedding_format
        return self.test.score(*self.test.stored(embedding, teacher.deployed, student.query, gallery)), None


def _without_head(network: Embedder) -> Embedder:
    network.head = None
    return network
