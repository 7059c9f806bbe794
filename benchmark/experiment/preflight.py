"""Checks of a run before its first image is read.

A run may take days. These checks find every mistake that the recipe alone reveals, and their errors name the key to
change. Networks are built on the `meta` device, with shapes but without weights, so the checks are fast.
"""

import inspect
import os
import re
import shutil
import traceback
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmark.data.augment import train_transform
from benchmark.engine.task import task_loss
from benchmark.engine.teacher_outputs import require_outputs_suffice
from benchmark.errors import UserError, nearest
from benchmark.experiment.networks import NAMED_WEIGHTS, check_files, for_each_teacher
from benchmark.experiment.published import teacher_path
from benchmark.method import Budget, Ceilings, Method, RecipePlan, as_tuple
from benchmark.model import cost
from benchmark.model.cost import Size
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features, stage_channels
from benchmark.model.plugin import build_plugin, is_plugin
from benchmark.model.residual_blocks import deployed_size
from benchmark.recipe import Augment, Network, Recipe, Runtime
from benchmark.recipe.fitting import PLAIN, accepts, meta_network, plain_options
from benchmark.registry import METHODS
from benchmark.retrieval import EmbeddingFormat
from benchmark.retrieval.approximate import NEEDS_FAISS
from benchmark.utils.launch import launch
from benchmark.utils.paths import user_path


@dataclass(frozen=True, slots=True)
class Preflight:
    """The method, and the costs of the networks of a checked recipe."""

    method: Method
    teachers: tuple[Size, ...]
    """Cost of each teacher before training, without its classifier."""
    student: Size
    """Cost of the student before training, without its classifier."""
    ceilings: Ceilings | None
    """What the method can remove from the student at most; None for a method that does not compress."""

    @property
    def teacher(self) -> Size:
        """Cost of the only teacher, or of the first of several."""
        return self.teachers[0]


def preflight(recipe: Recipe) -> Preflight:
    """Check a recipe, create its method, and count the cost of its networks.

    Raises:
        UserError: A network cannot be built, the networks do not fit the method, or a file or package is missing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)  # for methods that draw random numbers in their constructor
        try:
            method = METHODS.find(recipe.method.name)(**recipe.method.arguments)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a plugin may raise anything
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"{recipe.method.name} cannot be created with the arguments {recipe.method.arguments}: "
                f"{type(error).__name__} in line {place.lineno} of {place.filename}: {error}"
            ) from error
    _check_number_of_teachers(recipe, method)
    for_each_teacher(recipe, _check_plugins)
    *teachers, student = meta_networks(recipe)
    *sizes, size = [
        _size(key, settings, network, recipe.image_size)
        for (key, settings), network in zip(_networks(recipe), (*teachers, student), strict=True)
    ]
    for_each_teacher(recipe, _check_weights)
    for_each_teacher(recipe, _check_padding)
    _check_embedding(recipe.evaluate.embedding_format, student.dim)
    for key, built, part in zip(recipe.teacher_keys, teachers, recipe.per_teacher(), strict=True):
        if part.teacher.is_trained:
            _check_training(f"{key}.train", part.teacher.network, built, part.for_teacher())
    _check_training("train", recipe.student, student, recipe)
    classifier = method.needs.teacher and method.needs.classifier
    for_each_teacher(recipe, lambda part: _check_frozen(part, classifier) if part.teacher.frozen else None)
    require_outputs_suffice(method, recipe.method.name, recipe)
    check_pairing(method, teachers, student, recipe)
    ceilings = method.ceilings(student, recipe.image_size)
    if ceilings is not None and method.budget is not None:
        reference = deployed_size(teachers[0] if method.needs.teacher else student, recipe.image_size)
        _check_budget(recipe.method.name, method.budget, ceilings.architecture, reference)
    for_each_teacher(recipe, lambda part: _check_files(part, classifier))
    _check_runtime(recipe.runtime)
    _check_processes(recipe, launch().processes)
    return Preflight(method, tuple(sizes), size, ceilings)


def _check_number_of_teachers(recipe: Recipe, method: Method) -> None:
    """Check that a method takes all teachers of a recipe, and that no two of them are the same."""
    if not recipe.more_teachers:
        return
    if not method.needs.takes_several:
        several = [name for name in METHODS.names() if METHODS.find(name).needs.several_teachers]
        raise UserError(
            f"teacher: {recipe.method.name} takes one teacher, not {len(recipe.teachers)}: leave one, or choose a "
            f"method that takes several: {', '.join(several)}"
        )
    sections = [each.model_dump_json() for each in recipe.teachers]
    for key, section in zip(recipe.teacher_keys, sections, strict=True):
        if section in sections[: recipe.teacher_keys.index(key)]:
            same = recipe.teacher_keys[sections.index(section)]
            raise UserError(f"{key}: the same teacher as {same}: change one of them, for example its seed")


def _check_files(recipe: Recipe, classifier: bool) -> None:
    """Check the files that a recipe with one teacher names."""
    teacher = recipe.teacher
    check_files(teacher.network, recipe.student, teacher.checkpoint, classifier=classifier, frozen=teacher.frozen)


def _check_budget(method: str, budget: Budget, smallest: Size, reference: Size) -> None:
    """Check that the smallest possible student meets the budget, which is a fraction of the reference's cost."""
    if not budget.is_met(smallest, reference):
        least = 100 * budget.cost(smallest) / budget.cost(reference)
        cost = "MACs" if budget.kind == "macs" else "parameters"
        raise UserError(
            f"{method}: {100 * budget.target:g} % of the teacher's {cost} cannot be reached: {least:.1f} % remain with "
            "one channel in each pruned width. Set a larger target or budget"
        )


def _check_processes(recipe: Recipe, processes: int) -> None:
    """Check that every process gets an equal part of each batch, of two or more images for batch norms."""
    trainings = [("train", recipe.train)]
    teachers = zip(recipe.teacher_keys, recipe.teachers, strict=True)
    trainings += [(f"{key}.train", teacher.train) for key, teacher in teachers if teacher.is_trained]
    for key, train in trainings:
        batch = train.sampler.batch_size
        if processes > 1 and (batch % processes or batch < 2 * processes):
            raise UserError(
                f"{key}.sampler: a batch of {batch} images cannot be shared equally by {processes} processes, with at "
                f"least 2 images each: change {key}.sampler.identities or images, or start another number of processes"
            )


def meta_networks(recipe: Recipe) -> tuple[Embedder, ...]:
    """Build the teachers and then the student on the `meta` device, each with a classifier of two identities.

    Raises:
        UserError: The architecture does not exist, or does not have the options that the recipe sets.
    """
    networks = []
    for key, settings in _networks(recipe):
        try:
            networks.append(meta_network(settings))
        except UserError as error:
            raise UserError(f"{key}: {error}{_settings_of_resnets(key, settings)}") from error
    return tuple(networks)


def _networks(recipe: Recipe) -> Iterator[tuple[str, Network]]:
    """Yield the keys and the settings of the teachers' networks, and of the student's."""
    for key, teacher in zip(recipe.teacher_keys, recipe.teachers, strict=True):
        yield f"{key}.network", teacher.network
    yield "student", recipe.student


def _settings_of_resnets(key: str, settings: Network) -> str:
    """Return the end of a message about a network that cannot be built: options that only other backbones have.

    Recipes of datasets are for ResNets, so that another backbone may need several changes at once.
    """
    changes = " ".join(f"--set {key}.{name}={value}" for name, value in plain_options(settings, PLAIN).items())
    return f". {settings.backbone} can be used with {changes}" if changes else ""


def check_pairing(method: Method, teacher: Embedder | Sequence[Embedder], student: Embedder, recipe: Recipe) -> None:
    """Check that a method can train `student` with `teacher` by this recipe.

    Args:
        method: The method of the recipe.
        teacher: The teacher or teachers on the `meta` device; the method's taps are set on them.
        student: The student on the `meta` device; the method's taps are set on it.
        recipe: The recipe of both networks.

    Raises:
        UserError: The pairing is impossible; the message states the keys, their values and the remedy.
    """
    name, needs, teachers = recipe.method.name, method.needs, as_tuple(teacher)
    if type(method).loss is Method.loss:
        raise UserError(f"{name} has no loss: define `loss(self, student, teacher, batch)` in {type(method).__name__}")
    if needs.same_backbone and _backbone(recipe.teacher.network) != _backbone(recipe.student):
        raise UserError(
            f"{name}: the student has to start with the teacher's backbone. Leave `student` as `{{like: teacher}}`, "
            "or set the same backbone and args for both"
        )
    if needs.views and recipe.train.sampler.views == 1:
        raise UserError(
            f"{name} compares several augmented views of an image, but train.sampler.views is 1: set it to 2 or more"
        )
    if recipe.student.weights == "teacher" and _shapes(student) != _shapes(teachers[0]):
        raise UserError(
            "student.weights: 'teacher' requires the teacher's architecture, but the student's differs. Use "
            "`student.like=teacher`, or other weights"
        )
    method.check(student, needs.received(teachers) if needs.teacher else None, RecipePlan.from_recipe(recipe))
    if not needs.teacher:
        return
    for each in teachers:
        if needs.equal_embeddings and student.dim != each.dim:
            remedy = "Set the neck `linear` and the same dim for student and teacher.network"
            if recipe.teacher.frozen:
                remedy = f"Add --set student.neck=linear --set student.dim={each.dim}"
            raise UserError(
                f"{name} compares the embeddings of student and teacher, which must have one size: the student's has "
                f"{student.dim} dimensions and the teacher's {each.dim}. {remedy}"
            )
    parts = [part for part in method.modules() if isinstance(part, Method) and not part.parts]
    compared = [part for part in parts if not part.accepts_sequences]
    maps = {tap for part in compared for tap in part.student_taps}
    _check_taps(name, "student", student, method.student_taps, maps, recipe.image_size)
    maps = {tap for part in compared for tap in part.teacher_taps}
    for each in teachers:
        _check_taps(name, "teacher", each, method.teacher_taps, maps, recipe.image_size)


def _backbone(network: Network) -> tuple[str, dict[str, Any]]:
    return network.backbone, network.args


def _shapes(network: Embedder) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def _check_taps(
    method: str,
    key: str,
    network: Embedder,
    taps: Sequence[str],
    maps: Collection[str],
    image_size: tuple[int, int],
) -> None:
    """Check that the taps of a network exist, with a row for each image, and that those in `maps` are feature maps."""
    try:
        network.tap(taps)
    except UserError as error:
        raise UserError(f"{method} reads intermediate features of the {key}: {error}") from error
    backbone = network.architecture["backbone"]
    reason = f"{method} compares feature maps, (B, C, H, W), but the {key}'s backbone {backbone}"
    remedy = "choose stages of another backbone, or a method that reads embeddings only"
    try:
        images = torch.zeros(2, 3, *image_size, dtype=torch.uint8, device=network.mean.device)
        with torch.no_grad():  # some networks keep tensors of an evaluation, which could not be copied with gradients
            outputs = network.eval().features(images).taps
    except UserError as error:
        raise UserError(f"{reason} has none: {error}; {remedy}") from error
    for tap, output in outputs.items():
        if output.shape[:1] != images.shape[:1]:
            raise UserError(
                f"{method} reads {tap} of the {key}'s backbone {backbone}, which outputs {tuple(output.shape)} for "
                f"{len(images)} images: the images have to be the first dimension"
            )
        if tap not in maps:
            continue
        stage = re.fullmatch(r"stage(\d+)(:pre)?", tap)
        channels = stage_channels(network, [int(stage[1])])[0] if stage else None
        if output.dim() != 4 or channels not in (None, output.shape[1]):
            raise UserError(f"{reason} outputs {tuple(output.shape[1:])} per image at {tap}: {remedy}")


def _size(key: str, settings: Network, network: Embedder, image_size: tuple[int, int]) -> Size:
    try:
        return cost.count(network, image_size)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    except Exception as error:  # timm and torch raise many types for sizes that do not fit
        if is_plugin(settings.backbone):
            size = "x".join(map(str, settings.image_size or image_size))
            raise UserError(
                f"{key}: {settings.backbone} cannot embed a {size} image ({type(error).__name__}: {error}): correct "
                "the class, or its arguments"
            ) from error
        raise UserError(f"{key}: {_refused_size(key, settings, network, image_size)}") from error


def _refused_size(key: str, settings: Network, network: Embedder, image_size: tuple[int, int]) -> str:
    """Return a message about a network that cannot embed images of a size, with the changes that help."""
    size = settings.image_size or image_size
    height, width = size
    native = network.backbone.pretrained_cfg.get("input_size", ())[1:]
    if settings.args and native and not accepts(settings.model_copy(update={"image_size": tuple(native)}), size):
        args = ", ".join(f"args.{name} = {value!r}" for name, value in settings.args.items())
        return f"{settings.backbone} does not work with {args}, whatever the image size: correct or remove them"
    remedy = "set a larger image_size"
    if native:
        text = f"image_size=[{native[0]},{native[1]}]"
        remedy = f"its own size is {native[0]}x{native[1]}: set {text}, or {key}.{text} to let it resize its images"
    built = settings.model_copy(update={"args": {**settings.args, "img_size": [height, width]}})
    if "img_size" in inspect.signature(type(network.backbone)).parameters and accepts(built, size):
        remedy += f", or {key}.args.img_size=[{height},{width}] to build it for this size"
    return f"{settings.backbone} does not accept {height}x{width} inputs; {remedy}"


def _check_weights(recipe: Recipe) -> None:
    """Check that initial weights and the teacher's checkpoint exist."""
    for key, weights in (("teacher.network", recipe.teacher.network.weights), ("student", recipe.student.weights)):
        if weights not in NAMED_WEIGHTS and not user_path(weights).is_file():
            raise UserError(
                f"{key}.weights: {weights!r} is neither a file nor one of {', '.join(NAMED_WEIGHTS)}"
                f"{nearest(weights, NAMED_WEIGHTS)}"
            )
    checkpoint = recipe.teacher.checkpoint
    if checkpoint is None and recipe.teacher.network.weights == "teacher":
        raise UserError("teacher.network.weights: a teacher cannot start from itself; 'teacher' is for the student")
    if checkpoint is not None and not teacher_path(checkpoint).exists():
        raise UserError(f"teacher.checkpoint: {checkpoint} does not exist; give a run's folder or a file of weights")


def _check_plugins(recipe: Recipe) -> None:
    """Check that a network of `TEACHERS` is a teacher that is not trained."""
    if is_plugin(recipe.student.backbone):
        raise UserError(f"student.backbone: {recipe.student.backbone}: only teachers can be plugins: choose a backbone")
    network = recipe.teacher.network
    if not is_plugin(network.backbone):
        return
    if not recipe.teacher.frozen:
        raise UserError(
            f"teacher.network.backbone: {network.backbone} cannot be trained: add --set teacher.frozen=true "
            "--set teacher.network.neck=none"
        )
    if network.weights not in NAMED_WEIGHTS:
        raise UserError(
            f"teacher.network.weights: {network.weights}: {network.backbone} loads its weights itself: set this to "
            "imagenet, and the arguments of the class in teacher.network.args"
        )


def _check_frozen(recipe: Recipe, classifier: bool) -> None:
    """Check that a frozen teacher has trained weights for all that is used of it.

    Args:
        recipe: A recipe with `teacher.frozen`.
        classifier: Whether the method needs the teacher's classifier.
    """
    network, key = recipe.teacher.network, "teacher.network"
    plugin = is_plugin(network.backbone)
    if network.weights == "random" and not plugin:
        raise UserError(
            f"{key}.weights: random: teacher.frozen uses the initial weights as they are: set {key}.weights to "
            "imagenet (the published weights of the backbone) or to a file"
        )
    if network.weights not in NAMED_WEIGHTS:
        return  # the file may have everything
    if network.neck != "none":
        raise UserError(
            f"{key}.neck: {network.neck}: published weights of a backbone have no neck, and teacher.frozen trains "
            f"none: add --set {key}.neck=none, so that the pooled feature is the embedding"
        )
    if classifier and not (plugin and build_plugin(network.backbone, network.args).classifier()):
        raise UserError(
            f"{recipe.method.name} needs the teacher's classifier of the training identities, and a frozen teacher "
            f"with {key}.weights={network.weights} has none: choose a method that compares embeddings or feature "
            "maps, or train the teacher with --set teacher.frozen=false"
        )


def _check_padding(recipe: Recipe) -> None:
    """Check that images are padded by no more than makes sense, or than a reflection has pixels for."""
    height, width = recipe.image_size
    for key, train in (("train", recipe.train), ("teacher.train", recipe.teacher.train)):
        reflects = train.augment.pad_mode == "reflect"
        most = min(height, width) - 1 if reflects else 4 * max(height, width)
        if train.augment.pad > most:
            mode = f" with pad_mode: {train.augment.pad_mode}" if reflects else ""
            raise UserError(
                f"{key}.augment.pad: {train.augment.pad} pixels are too many for {height}x{width} images; set it to "
                f"{most} or fewer{mode}"
            )


def _check_embedding(embedding: EmbeddingFormat, dim: int) -> None:
    """Check that the gallery of a student with embeddings of `dim` values can be stored in a format."""
    if embedding.kind == "pq" and find_spec("faiss") is None:
        raise UserError(f"evaluate.embedding: {embedding} {NEEDS_FAISS}")
    try:
        embedding.require(dim)
    except ValueError as error:
        raise UserError(f"evaluate.embedding: {embedding}: {error}") from error


def _check_training(key: str, settings: Network, network: Embedder, recipe: Recipe) -> None:
    """Check that the augmentation, the losses and the learning rates of a training are possible.

    Args:
        key: Where the settings of the training are.
        settings: The architecture of the trained network.
        network: The trained network, on the `meta` device.
        recipe: The recipe that has these settings in its section `train`.
    """
    train = recipe.train
    if train.task.losses:
        _try_losses(key, recipe, network)
    if train.augment.transforms or train.augment.load_size:
        _try_transforms(key, train.augment, recipe.image_size)
    if train.task.margin is not None and settings.head != "cosine":
        network_key = "student" if key == "train" else f"{key.removesuffix('.train')}.network"
        raise UserError(f"{key}.task.margin: needs cosines as logits: set {network_key}.head=cosine")
    compresses = key == "train" and METHODS.find(recipe.method.name).compresses
    if compresses and (train.schedule.frozen_epochs or not train.optimizer.lr_times.backbone):
        name = "schedule.frozen_epochs" if train.schedule.frozen_epochs else "optimizer.lr_times.backbone"
        raise UserError(f"{key}.{name}: {recipe.method.name} compresses the backbone, which has to be trained")
    if recipe.method.name == "none" and not (train.task.identity or train.task.triplet.weight or train.task.losses):
        raise UserError(f"{key}.task: there is no loss: set {key}.task.identity=1")


def _try_transforms(key: str, augment: Augment, size: tuple[int, int]) -> None:
    """Augment an image by the transforms that the recipe names."""
    image = torch.zeros(3, *(augment.load_size or size), dtype=torch.uint8)
    try:
        with torch.random.fork_rng(devices=[]):
            augmented = train_transform(size, **augment.model_dump(exclude={"load_size"}))(image)
    except UserError as error:
        raise UserError(f"{key}.{error}") from error
    except Exception as error:  # torchvision raises many types
        raise UserError(f"{key}.augment: an image of {_size_text(image)} pixels: {error}") from error
    if augmented.shape != (3, *size) or augmented.dtype != torch.uint8:
        raise UserError(
            f"{key}.augment: the transforms turn an image of {_size_text(image)} pixels into one of "
            f"{_size_text(augmented)} and type {str(augmented.dtype).removeprefix('torch.')}; image_size is "
            f"{size[0]}x{size[1]} with type uint8"
        )


def _try_losses(key: str, recipe: Recipe, network: Embedder) -> None:
    """Compute the losses that the recipe names, because some check their arguments only then."""
    labels = torch.tensor([0, 0, 1, 1])
    with torch.random.fork_rng(devices=[]):
        pooled, embedding, logits = (
            torch.randn(len(labels), size) for size in (network.backbone.num_features, network.dim, 2)
        )
        try:
            task_loss(recipe, network, identities=2)(Features(pooled, embedding, logits), labels)
        except UserError as error:
            raise UserError(f"{key}.{error}") from error
        except Exception as error:  # any type
            raise UserError(f"{key}.task.losses: {type(error).__name__}: {error}") from error


def _size_text(image: Tensor) -> str:
    return "x".join(map(str, image.shape[-2:]))


def _check_runtime(runtime: Runtime) -> None:
    """Check that optional packages and the compiler backend exist."""
    backend = runtime.compile
    if backend is not None and backend not in (known := torch.compiler.list_backends(())):
        raise UserError(
            f"runtime.compile: unknown backend {backend!r}{nearest(backend, known)} Known: {', '.join(known)}."
        )
    if backend is not None and runtime.sync_batchnorm:
        raise UserError(
            f"runtime.sync_batchnorm: processes cannot share statistics within the code that runtime.compile={backend} "
            "makes; leave one of both out"
        )
    compilers = filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++"))
    if backend == "inductor" and not any(map(shutil.which, compilers)):
        raise UserError("runtime.compile: inductor needs a C++ compiler: install g++, or leave runtime.compile out")
    if runtime.tensorboard and find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: `pip install tensorboard`")
