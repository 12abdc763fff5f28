"""An exported ONNX file with its large matrix products in 8 bits.

ONNX Runtime's static quantisation (QDQ): weights with a scale a channel, inputs with one scale each,
which is calibrated on recordings without labels. Products of fewer than `MIN_CHANNELS` channels,
convolutions, pooling, norms and the front end stay in float32: they are a small share of the time, and
the spectra of the front end do not survive 8 bits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechssl.data.manifest import Utterance
from speechssl.errors import UserError
from speechssl.files import atomic_write

__all__ = ["calibration_waves", "quantise"]

MIN_CHANNELS = 256

CALIBRATION_UTTERANCES = 64
SECONDS = 10.0
"""Of each utterance at most; half a second at least (what the file takes)."""

MIN_COSINE = 0.99

Waves = npt.NDArray[np.float32]


def calibration_waves(utterances: Sequence[Utterance], sample_rate: int) -> list[Waves]:
    """Read recordings to calibrate on and to compare with: some, evenly spread over a list.

    Args:
        utterances: what there is; those that cannot be read or are too short are passed over.
        sample_rate: Hz.

    Returns:
        Waves (1, T), at most twice `CALIBRATION_UTTERANCES`.

    Raises:
        UserError: fewer than two can be read.
    """
    wanted = 2 * CALIBRATION_UTTERANCES
    every = max(1, len(utterances) // wanted)
    waves: list[Waves] = []
    for utterance in utterances[::every][:wanted]:
        try:
            wave = utterance.beginning(SECONDS).read(sample_rate)
        except (UserError, OSError, ValueError, RuntimeError):
            continue
        if len(wave) >= sample_rate // 2:
            waves.append(wave[None])
    if len(waves) < 2:
        raise UserError(
            f"export: {len(waves)} of {len(utterances)} recordings to calibrate on can be read and"
            " last half a second; give --calibrate two or more"
        )
    return waves


def quantise(path: Path, waves: Sequence[Waves]) -> str:
    """Put the large products of an ONNX file into 8 bits, in place.

    Every other wave is calibrated on; with the rest the file is compared with what it was.

    Args:
        path: an export of the format `onnx`.
        waves: of `calibration_waves`.

    Returns:
        A line with the number of products and the smallest cosine to the embeddings in float32.

    Raises:
        UserError: onnxruntime is missing, no product is large enough, or a cosine is below
            `MIN_COSINE`.
    """
    try:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise UserError(
            "export: --quantise needs onnxruntime and onnx; pip install 'speechssl[export]'"
        ) from None
    with tempfile.TemporaryDirectory() as folder, atomic_write(path) as temporary, _quiet():
        folded = Path(folder) / "folded.onnx"  # weights are no constants before
        quant_pre_process(str(path), str(folded), skip_symbolic_shape=True)
        nodes = _large_products(folded)
        if not nodes:
            raise UserError(
                f"export: this model has no product of {MIN_CHANNELS} or more channels, so 8 bits gain"
                " nothing; leave --quantise out"
            )
        quantize_static(
            str(folded),
            str(temporary),
            _Reader(waves[::2]),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        _copy_metadata(path, temporary)
        cosine = min(_cosines(_runner(path), _runner(temporary), waves[1::2]))
        if not cosine >= MIN_COSINE:
            raise UserError(
                f"export: in 8 bits the smallest cosine to the model's embeddings is {cosine:.4f}, below"
                f" {MIN_COSINE}; calibrate on more of the recordings that it will see, or leave"
                " --quantise out"
            )
    return f"{path}: {len(nodes)} products in 8 bits, smallest cosine to float32 {cosine:.4f}"


class _Reader:
    """Gives waves to onnxruntime's calibration, one at a time (its `CalibrationDataReader`)."""

    def __init__(self, waves: Sequence[Waves]) -> None:
        self._waves: Iterator[Waves] = iter(waves)

    def get_next(self) -> dict[str, Waves] | None:
        wave = next(self._waves, None)
        return None if wave is None else {"waves": wave}


def _large_products(path: Path) -> list[str]:
    """Return the names of the products with a constant weight of `MIN_CHANNELS` channels or more."""
    import onnx

    graph = onnx.load(str(path)).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    names = []
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            shape = shapes.get(node.input[1], ())
            if len(shape) == 2 and min(shape) >= MIN_CHANNELS:
                names.append(node.name)
    return names


def _copy_metadata(source: Path, target: Path) -> None:
    """Write the metadata of one ONNX file into another."""
    import onnx

    told = onnx.load(str(source)).metadata_props
    model = onnx.load(str(target))
    del model.metadata_props[:]
    model.metadata_props.extend(told)
    onnx.save(model, str(target))


def _runner(path: Path) -> Callable[[Waves], Waves]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(wave: Waves) -> Waves:
        embeddings: Waves = session.run(None, {"waves": wave})[0]
        return embeddings

    return run


def _cosines(
    one: Callable[[Waves], Waves], other: Callable[[Waves], Waves], waves: Sequence[Waves]
) -> Iterator[float]:
    for wave in waves:
        a = one(wave)[0]
        b = other(wave)[0]
        yield float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice that onnxruntime's quantiser logs about files made otherwise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
