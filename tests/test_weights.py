"""Files of weights: what was written comes back, and a hostile file is one line and no memory."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from speechssl import weights
from speechssl.errors import UserError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}


def saved(folder: Path, suffix: str) -> Path:
    path = folder / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(STATE, path)
    else:
        weights.write(path, STATE)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_was_written_comes_back(tmp_path, suffix):
    path = saved(tmp_path, suffix)
    assert weights.shapes(path) == {"a.weight": (2, 3), "count": ()}
    back = weights.read(path)
    assert back.keys() == STATE.keys()
    assert all(torch.equal(back[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_whom_the_umask_lets_read_may_read_it(tmp_path, umask, mode):
    """A model that was trained on a cluster is for the colleagues, too."""
    before = os.umask(umask)
    try:
        weights.write(tmp_path / "w.safetensors", {"a": torch.zeros(2)})
        weights.write(tmp_path / "w.safetensors", {"a": torch.ones(2)})  # over an old one
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_cut_anywhere_it_is_one_line(tmp_path, suffix):
    whole = saved(tmp_path, suffix).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        cut.write_bytes(whole[:length])
        for read in (weights.shapes, weights.read):
            with pytest.raises(UserError, match="cut") as refused:
                read(cut)
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_missing_file_is_named(tmp_path, suffix):
    for read in (weights.shapes, weights.read):
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / f"none{suffix}")


class Call:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_no_pickle_runs(tmp_path):
    torch.save({"a": Call(tmp_path / "ran")}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Call(tmp_path / "ran")))
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("zip.pt", "plain.pt", "old.pt"):
        for read in (weights.shapes, weights.read, weights.read_checkpoint):
            with pytest.raises(UserError):
                read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_compressed_archive_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert os.path.getsize(tmp_path / "bomb.pt") < 1 << 16
    with pytest.raises(UserError, match="compressed"):
        weights.read(tmp_path / "bomb.pt")


def test_a_header_that_claims_a_terabyte_is_refused(tmp_path):
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}
    ).encode()
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    for read in (weights.shapes, weights.read):
        with pytest.raises(UserError):
            read(path)


def test_a_shape_that_no_bytes_back_up_is_refused(tmp_path):
    one = torch.zeros(1).expand(1 << 40)  # strides of zero: 4 bytes that claim to be terabytes
    many = torch.zeros(1 << 20)
    torch.save({"a": one}, tmp_path / "wide.pt")
    torch.save({str(number): many for number in range(9)}, tmp_path / "shared.pt")
    for name in ("wide.pt", "shared.pt"):
        for read in (weights.shapes, weights.read):
            with pytest.raises(UserError, match="no plain tensor|share their"):
                read(tmp_path / name)


@pytest.mark.parametrize(
    "state", [[1, 2], {"a": 3}, {"a": {"b": torch.ones(1)}}, {3: torch.ones(1)}]
)
def test_what_is_no_state_dict_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "other.pt")
    for read in (weights.shapes, weights.read):
        with pytest.raises(UserError):
            read(tmp_path / "other.pt")
