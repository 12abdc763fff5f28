"""Files of weights: safetensors, and torch's own zip files, neither of which can run code here.

A file of weights may come from a stranger. Before any of its tensors is read, ``shapes`` tells what
it holds, so that a model can be compared with it; and no more memory is taken than the file is long:
a compressed archive, or one that claims more than it has, is refused.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.errors import UserError
from speechssl.files import atomic_write

SAFETENSORS = ".safetensors"


def write(
    path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a state dict as safetensors; a reader sees the old file or the new one.

    Whom the user's umask lets read may read it, as any other file of a model folder.

    Args:
        path: of the file.
        state: name -> tensor.
        metadata: of the file's header; that of PyTorch's files where None is given. Of several
            entries the order changes from run to run.

    Raises:
        OSError: the disk refused.
    """
    with atomic_write(path) as temporary:
        contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(contiguous, str(temporary), metadata=dict(metadata or {"format": "pt"}))
        except SafetensorError as error:
            refused = re.search(r"\(os error (\d+)\)", str(error))
            if refused is None:
                raise
            number = int(refused[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        temporary.chmod(mode)  # safetensors lets the owner alone read what it writes


def shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in a file of weights, reading none of them.

    Raises:
        UserError: the file is not there, damaged, or not a flat state dict.
    """
    path = Path(path)
    if path.suffix == SAFETENSORS:
        try:
            with safe_open(str(path), framework="pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise _damaged(path, error) from error
    state = _read_zip(path, mapped=True)
    return {name: tuple(tensor.shape) for name, tensor in _tensors(path, state).items()}


def read(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a file of weights, on the CPU.

    Raises:
        UserError: the file is not there, damaged, or not a flat state dict.
    """
    path = Path(path)
    if path.suffix == SAFETENSORS:
        try:
            return load_file(str(path))
        except Exception as error:
            raise _damaged(path, error) from error
    return _tensors(path, _read_zip(path))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return what `torch.save` wrote for resuming a run: tensors, numbers, strings and containers.

    Raises:
        UserError: the file is not there, damaged, or holds anything else.
    """
    path = Path(path)
    state = _read_zip(path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no state of a run; give another")
    return state


def _read_zip(path: Path, mapped: bool = False) -> Any:
    """Read an archive of `torch.save`; ``mapped``: leave the tensors' bytes on the disk."""
    try:
        _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that would take more memory than the file is long."""
    if not path.is_file():  # a FIFO would block
        raise UserError(f"{path}: no such file; check the path")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path}: cannot be read (no archive of torch.save); save it again, or give another"
        )
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    claimed = sum(member.file_size for member in members)
    if claimed > os.path.getsize(path):
        raise UserError(
            f"{path}: is compressed or claims more than it holds ({claimed} bytes); not read"
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise UserError(f"{path}: is compressed, as torch.save never does; not read")


def _tensors(path: Path, state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: holds no state dict; give the weights of a model")
    claimed = 0
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{path}: holds more than tensors ({name!r}); give a model's weights")
        refuse_empty_shell(path, name, tensor)
        claimed += tensor.numel() * tensor.element_size()
    if claimed > os.path.getsize(path):
        raise UserError(f"{path}: its tensors share their {claimed} bytes; save them one by one")
    return dict(state)


def refuse_empty_shell(path: Path, name: str, tensor: Tensor) -> None:
    """Raise UserError for a tensor whose shape is larger than what is stored of it.

    That is one that is sparse, has no storage (meta), or repeats one number along an axis (stride 0).
    """
    is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not is_dense or tensor.is_nested or tensor.is_quantized or 0 in _strides(tensor):
        raise UserError(f"{path}: {name[:80]!r} is no plain tensor; save its values")


def _strides(tensor: Tensor) -> list[int]:
    """Return the strides of the axes along which there is more than one entry."""
    return [s for s, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _damaged(path: Path, error: Exception) -> UserError:
    if not path.is_file():
        return UserError(f"{path}: no such file; check the path")
    first_line = (str(error).splitlines() or [""])[0]
    reason = first_line.partition(". ")[0] or type(error).__name__
    return UserError(f"{path}: cannot be read ({reason}); save it again, or give another")
