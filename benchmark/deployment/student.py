"""Students that know their input, for use outside of this suite."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data.decode import WHITE, BrokenImage, Color, decode, eval_transform, from_pillow
from benchmark.data.files import walk_images
from benchmark.data.samples import Defect
from benchmark.errors import UserError
from benchmark.model.backbone import RGB
from benchmark.model.embedder import Embedder
from benchmark.model.serialize import CONFIG_FILE, WEIGHTS_FILE, load_folder, load_network, save_folder, weights_hash
from benchmark.results.record import Record
from benchmark.utils.console import progress
from benchmark.utils.escape import terminal
from benchmark.utils.parallel import parallel_imap

HUB = "hf-hub:"
"""Beginning of the name of a repository of the Hugging Face Hub."""
RECORD_FILE = "record.json"
"""The record in the folder of a run, and in that of a student."""
STUDENT_FILE = "student.pt"
"""The deployed student in the folder of a run."""

ImageLike = str | Path | Image.Image
"""An image file or an image of Pillow."""


def load_student(source: str | Path, device: str | torch.device = "cpu") -> "Student":
    """Load a student in eval mode. The method that trained it is not needed.

    Args:
        source: The folder of a run, its `student.pt`, a folder that `Student.save_pretrained` has written, or
            "hf-hub:OWNER/NAME" for a repository of the Hugging Face Hub, optionally followed by "@REVISION".
        device: Where to put the network.

    Raises:
        UserError: There is no student, or its files are damaged.
    """
    if isinstance(source, str) and source.startswith(HUB):
        name, _, revision = source.removeprefix(HUB).partition("@")
        try:
            return Student.from_pretrained(name, revision=revision or None).to(device)
        except UserError:
            raise
        except Exception as error:  # those of huggingface_hub have several base classes
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{source} could not be downloaded: {terminal(reason)}") from error
    path = Path(source)
    if (path / CONFIG_FILE).is_file():
        network = load_folder(path, device)
    elif not path.is_dir():
        return Student(load_network(path, device))
    elif (path / STUDENT_FILE).is_file():
        network = load_network(path / STUDENT_FILE, device)
    else:
        raise UserError(
            f"{path} has neither {STUDENT_FILE} nor {CONFIG_FILE}: give the folder of a finished run or of a student, "
            f"or {HUB}OWNER/NAME"
        )
    return Student(network, _record_of(network, path))


def _record_of(network: Embedder, folder: Path) -> Record | None:
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    record = Record.read(path)
    if record.network.weights != weights_hash(network):
        raise UserError(f"{path} is the record of another network than the one next to it: restore or remove it")
    return record


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and the folders below it, sorted.

    Raises:
        UserError: The folder has no images, or a part of it cannot be listed.
    """
    findings = list(walk_images(folder))
    if defects := [finding for finding in findings if isinstance(finding, Defect)]:
        raise UserError(f"{defects[0].text}: repair or remove it")
    files = sorted(finding for finding in findings if isinstance(finding, Path))
    if not files:
        raise UserError(f"{folder} has no image files: give a folder of images")
    return files


class ImageTransform:
    """Converts image files and images of Pillow to the input of a student, as in training and evaluation.

    An image is turned upright according to its EXIF orientation, converted to RGB, composited on the background if it
    is transparent, and resized with antialiasing. Scaling and normalization are part of the student.

    Args:
        size: (height, width) in pixels.
        background: What shows through transparent pixels.
    """

    def __init__(self, size: tuple[int, int], background: Color = WHITE) -> None:
        self.size = size
        self.background = background
        self._resize = eval_transform(size)

    def __call__(self, image: ImageLike) -> Tensor:
        """Return an image as (3, H, W) uint8.

        A file is read faster than the same image opened with Pillow: a large JPEG is reduced while it is decoded.

        Raises:
            BrokenImage: The image cannot be decoded.
            UserError: `image` is neither a path nor an image of Pillow.
        """
        if isinstance(image, str | Path):
            pixels = decode(Path(image), self.size, self.background)
        elif isinstance(image, Image.Image):
            pixels = from_pillow(image, self.background)
        else:
            raise UserError(
                f"an image must be a path or an image of Pillow, not {type(image).__name__}: convert an array with "
                "PIL.Image.fromarray"
            )
        resized: Tensor = self._resize(pixels)
        return resized

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, background={self.background})"


class Student(nn.Module, ModelHubMixin):
    """A trained embedding network that knows its input; usually the result of `load_student`.

    It can be written with `save_pretrained(folder)`, published with `push_to_hub("OWNER/NAME")` and loaded with
    `Student.from_pretrained`, as every model of the Hugging Face Hub: the weights as safetensors, the architecture in
    `config.json`, the record in `record.json`, and a model card.

    Args:
        network: A deployed network, with `input_size` and `background`.
        record: The record of the run that trained it; None if it is not known.

    Attributes:
        network: The network.
        record: The record.
        image_size: (height, width) of the images in pixels.
        transform: Converts a path or an image of Pillow to one (3, H, W) uint8 image of that size.
    """

    def __init__(self, network: Embedder, record: Record | None = None) -> None:
        super().__init__()
        if network.input_size is None:
            raise ValueError("a student needs the size of its images: set the network's input_size")
        self.network = network
        self.record = record
        self.image_size: tuple[int, int] = network.input_size
        self.transform = ImageTransform(self.image_size, network.background)
        self.eval()

    @property
    def mean(self) -> RGB:
        """Mean of the RGB values in 0 .. 1, with which the network normalizes images."""
        return self.network.statistics[0]

    @property
    def std(self) -> RGB:
        """Standard deviation of the RGB values in 0 .. 1, with which the network normalizes images."""
        return self.network.statistics[1]

    @property
    def dim(self) -> int:
        """Size of an embedding."""
        return self.network.dim

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.mean.device

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch of images.

        Args:
            images: (B, 3, H, W) RGB images of `image_size`: uint8, or floats from 0 to 1, which are rounded to 8 bits.

        Returns:
            (B, dim) embeddings, not normalized.

        Raises:
            UserError: The images have another type, range, shape or size.
        """
        if isinstance(images, Tensor) and images.is_floating_point():
            images = _to_bytes(images)
        embeddings: Tensor = self.network(images)
        return embeddings

    @torch.inference_mode()
    def embed(self, images: ImageLike | Tensor | Iterable[ImageLike], *, batch_size: int = 64) -> Tensor:
        """Embed any number of images, with a progress bar on a terminal.

        Args:
            images: Paths or images of Pillow; a folder, whose images are taken in the order of `image_files`; one
                image; or a batch as for `forward`. Files are decoded in several threads, a batch ahead.
            batch_size: Number of images embedded at a time.

        Returns:
            (N, dim) float32 embeddings of unit length, on the CPU.

        Raises:
            BrokenImage: An image cannot be decoded.
            UserError: A folder has no images, or an image is of another type.
        """
        if isinstance(images, Tensor):
            batches: Iterator[Tensor] = iter(images.split(batch_size))
            total = len(images)
        else:
            listed = self._listed(images)
            batches = map(torch.stack, _batched(parallel_imap(self._decoded, listed), batch_size))
            total = len(listed) if isinstance(listed, list | tuple) else 0
        batch_count = -(-total // batch_size) or None
        vectors = [
            F.normalize(self(batch.to(self.device)).float()).cpu()
            for batch in progress(batches, "embedding", total=batch_count)
        ]
        return torch.cat(vectors) if vectors else torch.empty(0, self.dim)

    def _listed(self, images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
        if isinstance(images, str | Path):
            return image_files(Path(images)) if Path(images).is_dir() else [images]
        return [images] if isinstance(images, Image.Image) else images

    def _decoded(self, image: ImageLike) -> Tensor:
        try:
            return self.transform(image)
        except BrokenImage as error:
            raise BrokenImage(f"{error}. {error.remedy}, or leave it out") from error

    def _save_pretrained(self, save_directory: Path) -> None:
        save_folder(self.network, save_directory, self.image_size, self.transform.background)
        if self.record is not None:
            self.record.write(save_directory / RECORD_FILE)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **others: Any,
    ) -> Self:
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    allow_patterns=[CONFIG_FILE, WEIGHTS_FILE, RECORD_FILE],
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
            )
        network = load_folder(folder)
        return cls(network, _record_of(network, folder))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the page that describes the student on the Hub: how to use it, its results and its record."""
        from benchmark.deployment.model_card import model_card

        return model_card(self.record, self.image_size, self.dim)


def _batched(items: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _to_bytes(images: Tensor) -> Tensor:
    """Convert floats from 0 to 1 to uint8.

    Raises:
        UserError: The values are not in this range.
    """
    low, high = (float(value) for value in images.detach().aminmax()) if images.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # also if they are NaN
        remedy = "divide them by 255, or convert them to uint8"
        if not (low >= 0 and high <= 255):
            remedy = "do not normalize them, which the network does"
        raise UserError(f"floats must be from 0 to 1, not from {low:.3g} to {high:.3g}: {remedy}")
    return (images * 255).round().to(torch.uint8)
