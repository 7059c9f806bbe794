"""A program of `torch.export` as teacher."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.registry import TEACHERS
from benchmark.utils.paths import user_path

_REMEDY = "export a network that maps one batch of images, (B, 3, H, W), to embeddings, (B, dim)"


@TEACHERS.register_module("exported")
class Exported(nn.Module):
    """A program that `torch.export.save` has written, such as the `student.pt2` of `benchmark export`.

    Loading a file can run code in it, because torch reads constants with pickle.

    A program with a fixed batch size is run on batches of that size. A program on floating-point numbers gets pixels in
    0 .. 1, normalized with `mean` and `std`; a program on uint8 gets the pixels as they are.

    Args:
        path: The file.
        mean: Mean of RGB values in 0 .. 1.
        std: Standard deviation of RGB values in 0 .. 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, path: str, mean: tuple[float, ...] = (0.0, 0.0, 0.0), std: tuple[float, ...] = (1.0, 1.0, 1.0)
    ) -> None:
        super().__init__()
        file = user_path(path)
        if not Path(file).is_file():
            raise UserError(f"teacher exported: {file}: not a file: set teacher.network.args.path to a *.pt2 file")
        try:
            program = torch.export.load(file)
        except Exception as error:  # of any type: the file may be anything
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"teacher exported: {file} is not a program of torch.export: {reason}") from error
        given, returned = _user_values(program, "inputs"), _user_values(program, "outputs")
        if len(given) != 1 or given[0].dim() != 4 or len(returned) != 1 or returned[0].dim() != 2:
            shapes = [[tuple(map(str, value.shape)) for value in values] for values in (given, returned)]
            raise UserError(f"teacher exported: {file} maps {shapes[0]} to {shapes[1]}: {_REMEDY}")
        self.dtype = given[0].dtype
        self.batch = given[0].shape[0] if isinstance(given[0].shape[0], int) else None
        """The fixed batch size; None for any."""
        self.dim = int(returned[0].shape[1])
        self.program = program.module()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def train(self, mode: bool = True) -> "Exported":
        """Leave the program as it is: it has the mode in which it was exported, and refuses to change it."""
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Return the (B, dim) embeddings of (B, 3, H, W) uint8 images."""
        if self.dtype.is_floating_point:
            images = ((images / 255 - self.mean) / self.std).to(self.dtype)
        else:
            images = images.to(self.dtype)
        if self.batch is None:
            embeddings: Tensor = self.program(images)
            return embeddings
        missing = -len(images) % self.batch
        padded = torch.cat([images, images[:1].expand(missing, -1, -1, -1)])
        return torch.cat([self.program(part) for part in padded.split(self.batch)])[: len(images)]


def _user_values(program: Any, kind: str) -> list[Tensor]:
    """Return the metadata of the tensors that a program takes ("inputs") or returns ("outputs")."""
    names = set(getattr(program.graph_signature, f"user_{kind}"))
    values = [node.meta["val"] for node in program.graph.nodes if node.name in names]
    return [value for value in values if isinstance(value, Tensor)]
