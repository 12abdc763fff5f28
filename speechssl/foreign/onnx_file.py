"""ONNX files of speaker encoders: what they take, and whether they are safe to run.

An ONNX file is a graph of operators. onnxruntime runs it, so before that it is looked at here:
standard operators only, no loops, no data outside the file, no constants that are larger than the
file. What the graph takes is found in its metadata (this package's exports; those that are published
for sherpa-onnx, of wespeaker and 3D-Speaker), in the names that wespeaker gives, or said by the user.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl import foreign_json, parts
from speechssl.errors import UserError

SUFFIX = ".onnx"
FEATURES_KEY = "speechssl_features"
"""Metadata of this package's exports: section `features` as JSON."""

MAX_BYTES = 1 << 30
MAX_NODES = 200_000
MAX_METADATA = 10_000
MAX_DEPTH = 50
"""Bounds far beyond any speaker encoder: bytes of a file, operators, letters of its front end, and
functions inside functions."""

MAX_CONSTANT = 1 << 28
"""Numbers that an operator may make of nothing."""

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operators that onnxruntime itself has."""

_REFUSED = ("Loop", "Scan", "SequenceMap")
"""Operators that repeat a part of the graph, perhaps for ever."""

Layout = Literal["waveform", "frames_first", "bands_first"]


@dataclass(frozen=True)
class OnnxFile:
    """A speaker encoder in an ONNX file.

    Attributes:
        path: the file.
        graph: its bytes, which were checked.
        features: section `features`: the front end whose output the graph takes.
        layout: the input is (B, T) samples, (B, F, M) features, or (B, M, F).
        input: name of the input.
        output: name of the output.
        single: the graph takes one utterance at a time.
    """

    path: Path
    graph: bytes
    features: dict[str, Any]
    layout: Layout
    input: str
    output: str
    single: bool


def is_onnx(path: str | Path) -> bool:
    """True for a file that ends in `.onnx`."""
    path = Path(path)
    return path.suffix == SUFFIX and path.is_file()


def read(path: Path, features: Mapping[str, Any] | None = None) -> OnnxFile:
    """Read and check a file.

    Args:
        path: the file.
        features: section `features` where the user says it; None: as the file says.

    Raises:
        UserError: the package onnx is missing, the file is damaged or not safe to run, or neither
            the file nor `features` says which features it takes.
    """
    graph = _bytes(path)
    model = _parsed(graph, path)
    _check(model, path, len(graph))
    inputs, outputs = _ends(model.graph)
    told = {entry.key: entry.value for entry in model.metadata_props}
    if len(inputs) != 1:
        raise UserError(
            f"{path}: takes {len(inputs)} inputs ({', '.join(sorted(inputs))[:100]}); a speaker"
            " encoder with one input is wanted"
        )
    ((name, axes),) = inputs.items()
    section = dict(features or _features(told, name, outputs, path))
    section = parts.check("features", section, "features")
    dim = parts.construct("features", section).dim
    return OnnxFile(
        path=path,
        graph=graph,
        features=section,
        layout=_layout(axes, section, dim, path),
        input=name,
        output=_output(outputs, path),
        single=axes[0] == 1,
    )


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; not read")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _parsed(graph: bytes, path: Path) -> Any:
    """Return the ModelProto of a file.

    Raises:
        UserError: onnx is not installed, or the file is not an ONNX model.
    """
    try:
        import onnx
    except ImportError:
        raise UserError(
            f"{path}: ONNX needs onnx and onnxruntime; pip install 'speechssl[export]'"
        ) from None
    try:
        model = onnx.load_model_from_string(graph)
    except Exception as error:  # google.protobuf's DecodeError
        raise UserError(f"{path}: is no ONNX file, or a damaged one") from error
    if not model.graph.node:
        raise UserError(f"{path}: is no ONNX file, or an empty one")
    return model


def _check(model: Any, path: Path, size: int) -> None:
    """Raise UserError for a graph that is not run: see the module's description."""
    own = {_key(function.domain, function.name): function for function in model.functions}
    nodes = list(_nodes(model.graph))
    for function in model.functions:
        nodes += list(_nodes(function))
    if len(nodes) > MAX_NODES or _operators(model.graph, own, {}, (), path) > MAX_NODES:
        raise UserError(f"{path}: has more than {MAX_NODES} operators; not run")
    constants: dict[str, Any] = {}
    for node in nodes:
        is_own = _key(node.domain, node.op_type) in own
        if not is_own and node.domain not in _DOMAINS:
            raise UserError(
                f"{path}: uses the operator {node.domain[:40]}::{node.op_type[:40]}, which is not"
                " one of ONNX; not run"
            )
        if node.op_type in _REFUSED:
            raise UserError(f"{path}: uses {node.op_type}, which may never end; not run")
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                _check_tensor(tensor, path, size)
            if node.op_type == "Constant" and node.output:
                constants[node.output[0]] = _constant(attribute)
    for tensor in model.graph.initializer:
        _check_tensor(tensor, path, size)
        constants[tensor.name] = tensor
    if model.graph.sparse_initializer:
        raise UserError(f"{path}: holds sparse tensors; not run")
    for node in nodes:
        _check_size(node, constants, path)


def _key(domain: str, name: str) -> tuple[str, str]:
    """Return domain and name of an operator or function; the standard domain has two names."""
    return ("" if domain == "ai.onnx" else domain, name)


def _operators(
    graph: Any,
    functions: Mapping[tuple[str, str], Any],
    known: dict[tuple[str, str], int],
    inside: tuple[tuple[str, str], ...],
    path: Path,
) -> int:
    """Return how many operators a graph has when its own functions are written out.

    onnxruntime writes them out. Thirty functions of two calls each would become a billion operators.

    Args:
        graph: the graph, or a function.
        functions: the functions of the file.
        known: the numbers of those that were counted.
        inside: the functions that call this one.
        path: the file, for the error.

    Raises:
        UserError: a function calls itself, or they are nested beyond reason.
    """
    total = 0
    for node in _nodes(graph):
        key = _key(node.domain, node.op_type)
        if key not in functions:
            total += 1
            continue
        if key in inside or len(inside) >= MAX_DEPTH:
            raise UserError(f"{path}: its functions call themselves, or too deeply; not run")
        if key not in known:
            known[key] = _operators(functions[key], functions, known, (*inside, key), path)
        total += known[key]
    return total


def _constant(attribute: Any) -> Any:
    """Return what an attribute of a Constant gives: a TensorProto, or whole numbers."""
    if attribute.name == "value_int":
        return [attribute.i]
    if attribute.name == "value_ints":
        return list(attribute.ints)
    return attribute.t


def _nodes(graph: Any) -> Iterable[Any]:
    """Yield the operators of a graph or function, and of the graphs inside them."""
    pending = [graph]
    while pending:
        current = pending.pop()
        for node in current.node:
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending += attribute.graphs


def _check_tensor(tensor: Any, path: Path, size: int) -> None:
    """Raise UserError for data outside the file, or more of it than the file is long."""
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise UserError(
            f"{path}: keeps weights in another file; save it as one file (onnx.save without"
            " external data)"
        )
    count = 1
    for length in tensor.dims:
        if length < 0:
            raise UserError(f"{path}: holds a tensor of negative length; damaged")
        count *= length
    if count > 8 * size:  # 4 bits are the smallest number; a file holds each of them
        raise UserError(f"{path}: claims more numbers than the file is long; damaged")


def _check_size(node: Any, constants: Mapping[str, Any], path: Path) -> None:
    """Raise UserError for an operator that makes a huge tensor of constants alone."""
    import onnx

    place = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}.get(node.op_type)
    if place is None or len(node.input) <= place or node.input[place] not in constants:
        return
    lengths = constants[node.input[place]]
    if not isinstance(lengths, list):
        with foreign_json.damage(path, "give another file"):
            lengths = onnx.numpy_helper.to_array(lengths).ravel().tolist()
    if math.prod(max(1, int(length)) for length in lengths) > MAX_CONSTANT:
        raise UserError(f"{path}: {node.op_type} makes a tensor of {lengths} numbers; not run")


def _ends(graph: Any) -> tuple[dict[str, list[int | None]], dict[str, list[int | None]]]:
    """Return name -> lengths of axes (None: free) of the inputs and of the outputs."""
    held = {tensor.name for tensor in graph.initializer}
    found: list[dict[str, list[int | None]]] = []
    for ends in (graph.input, graph.output):
        axes: dict[str, list[int | None]] = {}
        for end in ends:
            if end.name in held:
                continue
            axes[end.name] = [
                axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
                for axis in end.type.tensor_type.shape.dim
            ]
        found.append(axes)
    return found[0], found[1]


def _features(
    told: Mapping[str, str], name: str, outputs: Iterable[str], path: Path
) -> dict[str, Any]:
    """Return section `features` as metadata or names say.

    Raises:
        UserError: they do not say; the line names the flag that does.
    """
    with foreign_json.damage(path, "give --features"):
        if FEATURES_KEY in told:
            section = json.loads(told[FEATURES_KEY][:MAX_METADATA])
            parts.refuse_outside_code({"features": section}, (), path)
            return dict(section)
        framework = told.get("framework", "")
        rate = int(told.get("sample_rate", "16000"))
        subtracts = told.get("feature_normalize_type", "") in ("global-mean", "")
        if framework in ("wespeaker", "3d-speaker") and subtracts:
            scale = 1.0 if told.get("normalize_samples", "1") == "1" else 32768.0
            window = "hamming" if framework == "wespeaker" else "povey"
            return {"name": "kaldi", "sample_rate": rate, "scale": scale, "window_type": window}
        if name == "feats" and "embs" in outputs:  # as wespeaker's export names them
            return {"name": "kaldi", "window_type": "hamming"}
    about = f" (its metadata: framework {framework[:30]!r})" if framework else ""
    raise UserError(
        f"{path}: does not say which features it takes{about}; say it with --features kaldi,"
        " waveform, logmel or speechbrain, with settings as --features"
        " '{name: kaldi, n_mels: 80, window_type: hamming}'"
    )


def _layout(axes: list[int | None], section: Mapping[str, Any], dim: int, path: Path) -> Layout:
    """Return how the input lies.

    Raises:
        UserError: it has another number of axes or bands than the front end.
    """
    is_waveform = section["name"] == "waveform"
    wanted = 2 if is_waveform else 3
    if len(axes) != wanted:
        raise UserError(
            f"{path}: takes {len(axes)} axes, and features {section['name']} have {wanted} (waveform:"
            " batch and samples; others: batch, frames and bands); say what it takes with --features"
        )
    if is_waveform:
        return "waveform"
    if axes[2] in (None, dim) and not (axes[2] is None and axes[1] == dim):
        return "frames_first"
    if axes[1] == dim:
        return "bands_first"
    raise UserError(
        f"{path}: takes {axes[2] or axes[1]} bands, and features {section['name']} have {dim}; say"
        f" how many with --features '{{name: {section['name']}, n_mels: {axes[2] or axes[1]}}}'"
    )


def _output(outputs: Mapping[str, list[int | None]], path: Path) -> str:
    """Return the name of the embedding: the only output, or the only one with `emb` in its name."""
    names = list(outputs)
    if len(names) > 1:
        names = [name for name in names if "emb" in name.lower()]
    if len(names) != 1:
        raise UserError(
            f"{path}: has {len(outputs)} outputs ({', '.join(outputs)[:100]}), and none of them is"
            " the embedding by its name"
        )
    return names[0]
