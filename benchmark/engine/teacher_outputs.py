"""Outputs of the teacher for fixed views of the training images, computed once for all runs.

With `teacher.cached_views: K`, every training image has K augmentations, the same for all methods and seeds, and the
teacher's pooled features, embeddings and logits for them are stored in `<work_dir>/<dataset>/teacher-outputs/`.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmark.data.batch import Draw
from benchmark.data.batch_loader import BatchLoader
from benchmark.data.loaders import TrainingImages
from benchmark.data.row_file import RowFile, RowSize
from benchmark.errors import UserError
from benchmark.evaluation import TestSet, out_of_memory
from benchmark.method import Method
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.recipe import Recipe
from benchmark.utils.console import notify, progress
from benchmark.utils.distributed import on_main
from benchmark.utils.locks import locked
from benchmark.utils.memory import explain_shortage
from benchmark.utils.precision import autocast_dtype
from benchmark.utils.writable import require_writable

FORMAT = 1
"""Version of the rows and of their augmentation. A new version makes new files."""
FOLDER = "teacher-outputs"
"""Folder of the files within `<work_dir>/<dataset>/`."""
BLOCK = 128
"""Number of views that are computed before they are written."""
_CHECKED = 16
"""Maximum number of views for which stored outputs are compared with computed ones."""
_TOLERANCE = 0.1
"""Largest difference between them, as a fraction of their norm. Another device or number of threads rounds otherwise,
in bfloat16 by up to 1 %."""
_OUTPUTS = ("pooled", "embedding", "logits")


class Output(NamedTuple):
    """The form of one output of the teacher for an image."""

    dtype: torch.dtype
    width: int

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.dtype.itemsize * self.width


@dataclass(frozen=True, slots=True)
class Layout:
    """How the outputs of the teacher for an image form a row of bytes: one after the other, as they were computed."""

    outputs: tuple[Output, ...]
    """The forms of pooled feature, embedding and logits."""

    @classmethod
    def of(cls, features: Features) -> "Layout":
        """Return the layout for outputs of these forms."""
        return cls(tuple(Output(value.dtype, value.shape[1]) for value in _values(features)))

    @property
    def row_bytes(self) -> int:
        """Size of a row in bytes."""
        return sum(output.bytes for output in self.outputs)

    def pack(self, features: Features) -> Tensor:
        """Return outputs for B images as (B, row_bytes) uint8, on the CPU."""
        return torch.cat([value.cpu().contiguous().view(torch.uint8) for value in _values(features)], dim=1)

    def unpack(self, rows: Tensor) -> Features:
        """Return the outputs in (B, row_bytes) uint8, on the device of the rows."""
        parts = rows.split([output.bytes for output in self.outputs], dim=1)
        pairs = zip(parts, self.outputs, strict=True)
        # Cloned, because a part begins anywhere, and a number of four bytes only at multiples of four.
        pooled, embedding, logits = (
            part.clone(memory_format=torch.contiguous_format).flatten().view(form.dtype).view(len(rows), form.width)
            for part, form in pairs
        )
        return Features(pooled, embedding, logits)


def require_outputs_suffice(method: Method, name: str, recipe: Recipe) -> None:
    """Check that a method needs no more of the teacher than stored outputs, if the recipe has `cached_views`.

    Args:
        method: The method, perhaps not prepared yet.
        name: Name of the method.
        recipe: The recipe of the run.

    Raises:
        UserError: It does; the message states what.
    """
    views, in_batch = max(teacher.cached_views for teacher in recipe.teachers), recipe.train.sampler.views
    if not views:
        return
    key, remedy = f"teacher.cached_views: {views}", "set it to 0"
    if recipe.more_teachers:
        raise UserError(f"{key}: the outputs of {len(recipe.teachers)} teachers cannot be stored: {remedy}")
    if not method.needs.teacher:
        raise UserError(f"{key}: {name} uses no outputs of the teacher: {remedy}")
    if taps := list(method.teacher_taps):
        listed = ", ".join(taps[:3]) + (", ..." if len(taps) > 3 else "")
        raise UserError(
            f"{key}: {name} reads feature maps of the teacher ({listed}), which are too large to be stored: {remedy}, "
            "or choose a method that compares embeddings, logits or pooled features"
        )
    if method.needs.teacher_network:
        raise UserError(
            f"{key}: {name} reads feature maps of the teacher or computes with its layers in every step, which stored "
            f"outputs do not replace: {remedy}, or choose a method that compares embeddings, logits or pooled features"
        )
    if views < in_batch:
        raise UserError(
            f"{key}: a batch has {in_batch} views of every image (train.sampler.views), which would not all differ: "
            f"set it to {in_batch} or more"
        )


def most_bytes(teacher: Embedder, images: int, identities: int, views: int) -> int:
    """Return an upper bound on the size of the stored outputs in bytes.

    Args:
        teacher: The teacher, perhaps on the `meta` device.
        images: Number of training images.
        identities: Number of training identities.
        views: Number of fixed views of each image.
    """
    return 4 * images * views * (teacher.backbone.num_features + teacher.dim + identities)


def stored_outputs(
    teacher: Embedder, source: TrainingImages, *, recipe: Recipe, test: TestSet, root: Path
) -> tuple[RowFile, Layout]:
    """Return the teacher's outputs for all fixed views, in the order of images and views.

    The first run computes what is missing, with a progress bar; others that need the same outputs wait. If it is
    killed, the next one continues. Of several processes, the main one computes. Every process has to call it.

    Args:
        teacher: The teacher as the training has it, frozen and in eval mode.
        source: The training images, with seeds of fixed views.
        recipe: The run's recipe.
        test: The dataset, and how images are read.
        root: Folder of all such files of the dataset.

    Raises:
        UserError: The file is damaged or cannot be written, or an output is NaN or infinite.
    """
    return on_main(lambda: _Store(teacher, source, recipe, test).open(root))


class _Store:
    """The computation of a teacher's outputs for fixed views."""

    def __init__(self, teacher: Embedder, source: TrainingImages, recipe: Recipe, test: TestSet) -> None:
        assert source.view_seeds is not None, "the loader of a training with cached views has fixed views"
        self.teacher, self.source, self.test = teacher, source, test
        self.images, self.views = source.view_seeds.shape
        self.rows = self.images * self.views
        self.device = torch.device(test.loading.device)
        self.dtype = autocast_dtype(recipe.runtime.amp, self.device)
        self.recipe = recipe

    def open(self, root: Path) -> tuple[RowFile, Layout]:
        checked = torch.linspace(0, self.rows - 1, min(_CHECKED, self.rows)).long()
        batch = self.source.__getitems__([_draw(row, self.views) for row in checked.tolist()])
        computed = self._outputs(batch.images)
        layout = Layout.of(computed)
        description = self._description(layout)
        digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
        folder = root / f"{self.views}-views-{digest[:12]}"
        require_writable(root, "--work-dir")
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f".{folder.name}.lock", f"stores the teacher's outputs in {folder}"):
            file = RowFile(folder, description, RowSize(self.rows, layout.row_bytes, BLOCK))
            file.verify()
            known = checked < file.complete_rows
            if known.any():
                self._compare(layout.unpack(file.read(checked[known])), computed, known, folder)
            if not file.is_complete:
                self._compute(file, layout)
        return file, layout

    def _description(self, layout: Layout) -> dict[str, Any]:
        """Return everything that the outputs depend on, as plain values."""
        recipe, teacher, dataset = self.recipe, self.teacher, self.test.dataset
        software = {name: version(name) for name in ("pillow", "timm", "torch", "torchvision")}
        content = {
            "format": FORMAT,
            "teacher": {
                "architecture": teacher.architecture,
                "normalization": [*teacher.statistics, teacher.interpolation],
                "weights": _weights_hash(teacher),
            },
            "images": {
                "dataset": dataset.name,
                "training": dataset.identity.training,
                "background": self.test.loading.background,
                "size": recipe.image_size,
                "augment": recipe.train.augment.model_dump(mode="json"),
                "views": self.views,
            },
            "precision": str(self.dtype).removeprefix("torch."),
            "outputs": {
                name: [str(form.dtype).removeprefix("torch."), form.width]
                for name, form in zip(_OUTPUTS, layout.outputs, strict=True)
            },
            "software": software,
        }
        plain: dict[str, Any] = json.loads(json.dumps(content))
        return plain

    def _compute(self, file: RowFile, layout: Layout) -> None:
        """Compute and write the missing rows."""
        size, blocks = file.size, file.missing
        left = sum(map(len, blocks))
        require_writable(file.folder, "--work-dir", left * size.row_bytes)
        done = f", of which {file.complete_rows:,} are there" if file.complete_rows else ""
        notify(
            f"computing the teacher's outputs for {self.views} fixed view{'' if self.views == 1 else 's'} of "
            f"{self.images:,} images: {size.rows:,} forward passes{done}, {size.rows * size.row_bytes / 1e6:,.1f} MB "
            f"in {file.folder}"
        )
        loading = self.test.loading
        loader = BatchLoader(
            self.source,
            _Draws(blocks, self.views),
            batch_size=size.block,
            workers=loading.workers,
            device=self.device,
            persistent=False,
        )
        begun = time.perf_counter()
        for batch in progress(loader, "computing the teacher's outputs", len(blocks)):
            features = self._outputs(batch.images)
            if not all(value.isfinite().all() for value in _values(features)):
                raise UserError(
                    "outputs of the teacher are NaN or infinite, and cannot be stored: set runtime.amp to off, or give "
                    "another teacher"
                )
            now = time.perf_counter()
            file.append(layout.pack(features), now - begun)
            begun = now
        notify(f"computed the teacher's outputs in {file.seconds:.0f} s; other runs will use them")

    def _outputs(self, images: Tensor) -> Features:
        """Return the outputs for images, in the precision of the training."""
        size, enabled = self.test.batch_size, self.dtype != torch.float32
        autocast = torch.autocast(self.device.type, self.dtype if enabled else torch.bfloat16, enabled=enabled)

        def explain() -> str:
            return out_of_memory(size, self.test.loading.size, self.device)

        with explain_shortage(explain), torch.no_grad(), autocast:
            parts = [self.teacher.features(part) for part in images.to(self.device).split(min(size, BLOCK))]
        pooled, embedding, logits = (torch.cat(values) for values in zip(*map(_values, parts), strict=True))
        return Features(pooled, embedding, logits)

    def _compare(self, stored: Features, computed: Features, known: Tensor, folder: Path) -> None:
        """Compare stored outputs with those that were computed for the same views.

        This finds what the description does not show, such as another file behind the name of a plugin's argument.
        """
        for name, before, now in zip(_OUTPUTS, _values(stored), _values(computed), strict=True):
            now = now.cpu()[known].float()
            error = (before.float() - now).norm() / now.norm().clamp(min=1e-30)
            if now.numel() and not error <= _TOLERANCE:
                raise UserError(
                    f"{folder}: the stored {name} of the teacher differs from what the teacher computes now, by "
                    f"{100 * error:.0f} %: delete the folder to create it again"
                )


class _Draws:
    """The draws of blocks of rows, made when they are needed: there may be many millions."""

    def __init__(self, blocks: Sequence[range], views: int) -> None:
        self.blocks, self.views = blocks, views

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[list[Draw]]:
        for block in self.blocks:
            yield [_draw(row, self.views) for row in block]


def _draw(row: int, views: int) -> Draw:
    return Draw(row // views, 0, row % views)


def _values(features: Features) -> tuple[Tensor, ...]:
    return tuple(getattr(features, name) for name in _OUTPUTS)


def _weights_hash(network: Embedder) -> str:
    """Return the SHA-256 of the names, shapes, dtypes and values of all weights, the classifier's included."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
