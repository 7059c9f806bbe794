"""A vision model of Hugging Face's `transformers` as teacher."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import UserError
from benchmark.registry import TEACHERS
from benchmark.utils.paths import user_path


@TEACHERS.register_module("transformers")
class Transformers(nn.Module):
    """A vision model of `transformers`: a repository of the Hub, or a folder that `save_pretrained` has written.

    Images are normalized, and resized if the model accepts one size only, as its image processor states. The whole
    image is used; nothing is cropped.

    Args:
        model: Name of the repository, or path of the folder.
        pool: `cls` is the first token of the last layer, `mean` the mean over its tokens or positions, `pooler` the
            model's own pooled output, and `image` the image features of a model of images and text, such as CLIP.
        revision: Branch, tag or commit of the repository.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: str, pool: Literal["cls", "mean", "pooler", "image"] = "cls", revision: str | None = None
    ) -> None:
        super().__init__()
        try:
            from transformers import AutoImageProcessor, AutoModel
        except ImportError as error:
            raise UserError(
                "teacher transformers needs the package transformers: "
                "pip install 'retrieval-distill-benchmark[transformers]'"
            ) from error
        place = str(user_path(model)) if user_path(model).is_dir() else model
        try:
            loaded: Any = AutoModel.from_pretrained(place, revision=revision).eval()
            processor = AutoImageProcessor.from_pretrained(place, revision=revision, use_fast=False)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"teacher transformers: {model} could not be loaded ({reason}): give a folder, or a repository of a "
                "vision model on a machine that is connected"
            ) from error
        self.pool = pool
        config = getattr(loaded.config, "vision_config", None) or loaded.config
        if pool == "image":
            self.model: Any = loaded
            for name in ("text_model", "text_projection"):  # part of neither the embedding nor its cost
                if hasattr(self.model, name):
                    setattr(self.model, name, None)
        else:
            self.model = getattr(loaded, "vision_model", loaded)
        self.size: int | None = getattr(config, "image_size", None)
        """Height and width of the images that the model accepts; None for any size."""
        self.register_buffer("mean", torch.tensor(processor.image_mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(processor.image_std).view(3, 1, 1))
        with torch.inference_mode():
            side = self.size or 224
            self.dim = int(self.embed(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape[1])

    def embed(self, images: Tensor) -> Tensor:
        """Return the (B, dim) embeddings of (B, 3, H, W) uint8 images."""
        pixels = images / 255
        if self.size and pixels.shape[2:] != (self.size, self.size):
            size = [self.size, self.size]
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
        pixels = (pixels - self.mean) / self.std
        if self.pool == "image":
            features = self.model.get_image_features(pixel_values=pixels)
            return features if isinstance(features, Tensor) else features.pooler_output
        output = self.model(pixel_values=pixels)
        if self.pool == "pooler":
            return output.pooler_output.flatten(1)
        tokens: Tensor = output.last_hidden_state
        if tokens.dim() == 4:  # feature maps
            return tokens.mean((2, 3)) if self.pool == "mean" else tokens[:, :, 0, 0]
        return tokens.mean(1) if self.pool == "mean" else tokens[:, 0]
