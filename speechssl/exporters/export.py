"""Export a model, and compare what was written with it: `speechssl export`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from speechssl import parts
from speechssl.embed.sources import collect
from speechssl.errors import UserError, writing
from speechssl.exporters.quantisation import calibration_waves
from speechssl.exporters.quantisation import quantise as quantise_file
from speechssl.exporters.waveforms import compare
from speechssl.files import model_folder
from speechssl.interfaces import Exporter
from speechssl.locks import sole_writer_in
from speechssl.model import Model


def export(
    model: str | Path,
    to: str,
    out: str | Path,
    *,
    quantise: Literal["int8"] | None = None,
    calibrate: Sequence[str | Path] = (),
    allow_code: Collection[str] = (),
) -> Path:
    """Write a model for other programs, and compare the embeddings with those of the model.

    Args:
        model: a model folder or a run folder.
        to: format, a part of `exporters/`.
        out: folder to write.
        quantise: ``int8``: large products in 8 bits (format ``onnx``; `quantisation`).
        calibrate: recordings that it is calibrated on: audio files, folders, Kaldi directories.
        allow_code: packages outside this one whose parts the model's folder may name.

    Returns:
        The folder. The result of the comparison is printed on standard error.

    Raises:
        UserError: the model cannot be loaded, the format is unknown or cannot express the model, a
            library is missing, `out` cannot be written or is the model's own folder, or the
            embeddings differ.
    """
    exporter: Exporter = parts.find("exporters", to)
    out = Path(out)
    _check_target(out, Path(model))
    _check_quantisation(to, quantise, calibrate)
    loaded = Model.load(model, allow_code=allow_code)
    waves = []
    if quantise:
        waves = calibration_waves(collect(calibrate)[0], loaded.sample_rate)
    with sole_writer_in(out), writing(out):
        run = exporter(loaded, out)
        if run is None:
            print(f"{out}: not compared with the model: no runtime is installed", file=sys.stderr)
        else:
            print(compare(loaded, run, str(out)), file=sys.stderr)
        if quantise:
            print(quantise_file(out / "model.onnx", waves), file=sys.stderr)
    return out


def _check_quantisation(to: str, quantise: str | None, calibrate: Sequence[str | Path]) -> None:
    """Refuse options that do not go together."""
    if quantise is None and calibrate:
        raise UserError("export: --calibrate goes with --quantise int8")
    if quantise is None:
        return
    if to != "onnx":
        raise UserError("export: --quantise goes with --to onnx")
    if not calibrate:
        raise UserError(
            "export: --quantise int8 needs --calibrate: recordings such as the model will see"
        )


def _check_target(out: Path, model: Path) -> None:
    """Refuse to write over the model or a file."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"export: {out} is a file; give another --out")
    if out.resolve() in (model.resolve(), model_folder(model).path.resolve()):
        raise UserError(f"export: {out} is the model itself; give another --out")
