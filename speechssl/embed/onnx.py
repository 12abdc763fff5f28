"""A speaker encoder in an ONNX file as a model: `speechssl.load("model.onnx")`.

The front end is this package's; onnxruntime runs the rest on the CPU. Such a model embeds. It cannot
be trained, exported or saved as a model folder.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from speechssl import parts
from speechssl.errors import UserError
from speechssl.foreign import onnx_file
from speechssl.foreign.onnx_file import OnnxFile
from speechssl.interfaces import Encoder
from speechssl.model import Model

MAX_DIM = 1 << 16
"""Numbers of an embedding at most."""

MEMORY_SHARE = 0.5
"""Of this machine's memory, what graphs may take."""


class OnnxEncoder(Encoder):
    """Runs the graph of a checked file.

    Args:
        file: the file.
        example: (1, F, M) features of some noise, on which it is tried.

    Raises:
        UserError: onnxruntime is missing, or the graph does not run on the example.
    """

    graph: Tensor
    """Bytes of the file: what tells this model from others (`speakers.models.digest`)."""

    def __init__(self, file: OnnxFile, example: Tensor) -> None:
        super().__init__()
        self.file = file
        data = np.frombuffer(file.graph, np.uint8).copy()
        self.register_buffer("graph", torch.from_numpy(data), persistent=True)
        self.session = _session(file)
        found = self._run(example)
        if found.dim() != 2 or not 1 <= found.shape[1] <= MAX_DIM:
            raise UserError(
                f"{file.path}: gives {tuple(found.shape)} for one utterance, and not one embedding"
            )
        if not bool(found.isfinite().all()):
            raise UserError(
                f"{file.path}: gives numbers that are not finite for noise; check --features"
            )
        self.embedding_dim = found.shape[1]

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of features (B, F, M); rows of one length run together.

        The graph knows no lengths, so no row is padded.

        Raises:
            UserError: onnxruntime refuses an input (too short for the graph, say).
        """
        counts = [features.shape[1]] * features.shape[0]
        if lengths is not None:
            counts = lengths.tolist()
        rows_of: dict[int, list[int]] = {}
        for row, count in enumerate(counts):
            rows_of.setdefault(count, []).append(row)
        embeddings = torch.zeros(features.shape[0], self.embedding_dim)
        for count, rows in rows_of.items():
            batches = [[row] for row in rows] if self.file.single else [rows]
            for batch in batches:
                embeddings[batch] = self._run(features[batch, :count])
        return embeddings.to(features.device)

    def _run(self, features: Tensor) -> Tensor:
        """Return embeddings (B, D) of whole rows (B, F, M)."""
        given = features.detach().cpu().float()
        if self.file.layout == "waveform":
            given = given[:, :, 0]
        elif self.file.layout == "bands_first":
            given = given.transpose(1, 2)
        try:
            (found,) = self.session.run([self.file.output], {self.file.input: given.numpy()})
        except Exception as error:  # onnxruntime's own kinds
            reason = " ".join(str(error).split())[-200:]
            raise UserError(
                f"{self.file.path}: does not run on {tuple(given.shape)} ({reason})"
            ) from error
        array = np.asarray(found, np.float32)
        # Some exports keep an axis of one frame: (B, 1, D) or (B, D, 1).
        return torch.from_numpy(array.reshape(array.shape[0], -1).copy())


def _session(file: OnnxFile) -> Any:
    """Return onnxruntime's session of a checked graph, on the CPU.

    Raises:
        UserError: onnxruntime is missing, or refuses the graph.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            f"{file.path}: ONNX needs onnxruntime; pip install 'speechssl[export]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its messages become the line below
    if _bound_memory():
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(onnx_file.MAX_BYTES)
    )
    try:
        return onnxruntime.InferenceSession(file.graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file.path}: onnxruntime cannot run it ({reason})") from error


@functools.cache
def _bound_memory() -> bool:
    """Let onnxruntime take at most `MEMORY_SHARE` of this machine's memory in this process.

    A graph of forty operators can double a tensor forty times: no look at the file tells. What goes
    beyond is an error of the graph, one line, and not the end of the process.

    Returns:
        False if the size of the memory is unknown, or something else has set a bound.
    """
    import onnxruntime

    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        kinds = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
        place = onnxruntime.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1])
        arena = onnxruntime.OrtArenaCfg(int(MEMORY_SHARE * memory), -1, -1, -1)
        onnxruntime.create_and_register_allocator(place, arena)
    except (AttributeError, ValueError, OSError, RuntimeError):
        return False
    return True


class OnnxModel(Model):
    """Waveforms to embeddings through a front end of this package and an ONNX graph.

    Args:
        file: the file.

    Raises:
        UserError: as `OnnxEncoder`.
    """

    def __init__(self, file: OnnxFile) -> None:
        nn.Module.__init__(self)
        self.settings = {
            "features": file.features,
            "encoder": {"name": "onnx", "layout": file.layout},
        }
        self.about = {"from": "ONNX", "labels_used": "not known"}
        self.front_end = parts.construct("features", file.features)
        generator = torch.Generator().manual_seed(0)
        noise = 0.05 * torch.randn(1, 2 * self.front_end.sample_rate, generator=generator)
        self.graph = file.graph
        self.encoder = OnnxEncoder(file, self.front_end(noise)[0])

    def save(self, folder: str | Path) -> NoReturn:
        """Refuse: the graph is a program, and a model folder holds weights."""
        raise UserError(
            f"model: {folder}: an ONNX file embeds and is not saved as a model folder; copy the file"
        )


def copied(model: Model, folder: str) -> str:
    """Write a model into a folder for other processes; return what they load."""
    if not isinstance(model, OnnxModel):
        model.save(folder)
        return folder
    path = Path(folder, f"model{onnx_file.SUFFIX}")
    path.write_bytes(model.graph)
    return str(path)


def load_onnx(path: Path, features: str | None = None) -> Model:
    """Return the model in an ONNX file, in evaluation mode.

    Args:
        path: the file.
        features: what the graph takes, where the file does not say: the name of a front end, or
            section `features` as YAML (`{name: kaldi, window_type: hamming}`).

    Raises:
        UserError: see `foreign.onnx_file.read` and `OnnxEncoder`.
    """
    section = None if features is None else front_end_section(features)
    return OnnxModel(onnx_file.read(path, section)).eval()


def front_end_section(text: str) -> dict[str, Any]:
    """Return section `features` of a user's words: a name, or a mapping as YAML.

    Raises:
        UserError: it is neither.
    """
    try:
        section = yaml.safe_load(text)
    except yaml.YAMLError:
        section = None
    if isinstance(section, str):
        section = {"name": section}
    if not isinstance(section, Mapping) or "name" not in section:
        raise UserError(
            f"--features {text[:80]!r}: give the name of a front end (speechssl list features), or"
            " '{name: kaldi, window_type: hamming}'"
        )
    return dict(section)
