"""Models that other programs have saved: one module a format, found by what is in the folder."""

from __future__ import annotations

from pathlib import Path

from speechssl import parts
from speechssl.errors import UserError
from speechssl.foreign import onnx_file
from speechssl.foreign.hub import is_hub_name, snapshot
from speechssl.interfaces import ForeignFormat, ForeignModel

__all__ = ["locate", "read"]


def _formats() -> list[ForeignFormat]:
    return [parts.find("foreign", name) for name in parts.names("foreign")]


def locate(source: str | Path) -> Path:
    """Return where the model is: `source` itself, or the download of a name on the hub.

    Raises:
        UserError: it is a name on the hub, and cannot be downloaded.
    """
    if not is_hub_name(source):
        return Path(source)
    patterns = ["config.yaml", "weights.safetensors", "model.safetensors"]
    for form in _formats():
        patterns += form.patterns
    return snapshot(str(source), patterns)


def read(path: Path) -> ForeignModel | None:
    """Read the model at `path` if it is of a known format; None: it is of none.

    Raises:
        UserError: it is, and cannot be taken.
    """
    if onnx_file.is_onnx(path):
        raise UserError(
            f"model: {path} is ONNX, a program: it embeds (speechssl embed, verify, diarize), and"
            " cannot be trained, exported or saved; give weights for that"
        )
    for form in _formats():
        if form.recognises(path):
            return form.read(path)
    return None
