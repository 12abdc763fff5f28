"""Fixtures that the tests of several folders use; what they are made of is in `builders.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import builders
import pytest
import torch

from speechssl.corpora import synthetic


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--device cuda``: the contract tests compute there."""
    parser.addoption(
        "--device", default="cpu", help="where tests/contracts computes: cpu, cuda, cuda:N or mps"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the device before the first test file is imported."""
    builders.choose_device(config.getoption("--device"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors as small as those of tests only suffer from more threads."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaldi directories `train` (32 utterances of 8 speakers) and `eval` (16 of 4, with trials).

    Generated voices, each utterance 1.0 to 1.4 s. Nobody may write into them. Every process of
    xdist makes its own, in about 2 s.
    """
    folder = tmp_path_factory.mktemp("voices")
    synthetic.prepare(
        str(folder / "audio"),
        str(folder),
        speakers=12,
        evaluation_speakers=4,
        utterances=4,
        shortest=1.0,
        longest=1.4,
    )
    return folder


@pytest.fixture
def memory_bucket() -> str:
    """A store in memory that answers to s3://."""
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        protocol = "s3"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.removeprefix("s3:/"))

    fsspec.register_implementation("s3", Bucket, clobber=True)
    MemoryFileSystem.store.clear()
    return "s3://bucket"
