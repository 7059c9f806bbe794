"""int8 networks: quantization of an exported student after the training."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.deployment.runtimes import INPUT

CALIBRATION_IMAGES = 512
"""Number of training images that determine the ranges of activations."""
_BATCH = 32


def quantize(file: Path, inputs: Tensor) -> None:
    """Replace an ONNX network by one that computes in int8 where onnxruntime can.

    Weights have 7 bits, with a range for every output channel. With 8, sums of products overflow on x86 processors
    without VNNI, and the embeddings would depend on the processor. Activations have 8 bits, from the least to the
    largest value on the calibration images.

    Args:
        file: The network in float32.
        inputs: (N, ...) inputs of the network, for calibration.
    """
    from onnxruntime import quantization  # optional, so imported only when needed
    from onnxruntime.quantization.shape_inference import quant_pre_process

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it warns of operators that stay in float32
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                file,
                _reader(quantization.CalibrationDataReader, inputs),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    finally:
        logging.root.setLevel(level)


def _reader(base: Any, inputs: Tensor) -> Any:
    """Return onnxruntime's reader of calibration data, in batches."""

    class Reader(base):  # the package is optional
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(inputs.split(_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.cpu().numpy()}

    return Reader()
