"""Parts are found without importing them; helpers beside them are not parts; saved names."""

import importlib
import subprocess
import sys
from typing import ClassVar

import pytest

from speechssl import parts
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Predictor


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package of parts in place of speechssl/predictors; a function writes a module into it."""
    monkeypatch.setattr(parts, "__file__", str(tmp_path / "parts.py"))
    parts.descriptions.cache_clear()
    (tmp_path / "predictors").mkdir()

    def write(name, text):
        file = tmp_path / "predictors" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    yield write
    parts.descriptions.cache_clear()


def test_a_part_names_part_and_a_helper_does_not(folder):
    folder("__init__.py", '"""The folder."""\n')
    folder("real.py", '"""A real one."""\nPART = None\n')
    folder("annotated.py", '"""Loaded lazily."""\nfrom typing import Any\nPART: Any\n')
    folder("package/__init__.py", '"""A folder of its own."""\nPART = None\n')
    folder(
        "helper.py", '"""Speaks of PART, uses one."""\nfrom real import PART as other\nx = other\n'
    )
    folder("inside.py", '"""PART inside a function."""\ndef f():\n    PART = 1\n    return PART\n')
    folder("_private.py", '"""Private."""\nPART = None\n')
    folder("notes.txt", "PART = 1")
    assert parts.descriptions("predictors") == {
        "annotated": "Loaded lazily.",
        "package": "A folder of its own.",
        "real": "A real one.",
    }


def test_the_description_is_the_first_paragraph_on_one_line_and_nothing_runs(folder):
    folder("wide.py", '"""One sentence on\n    two lines.\n\nMore."""\nPART = 1 / 0\n')
    assert parts.descriptions("predictors") == {"wide": "One sentence on two lines."}


@pytest.mark.parametrize("name", parts.FOLDERS)
def test_every_part_of_the_package_can_be_imported_and_is_described_in_one_line(name):
    found = parts.descriptions(name)
    assert found
    for part, description in found.items():
        module = importlib.import_module(f"speechssl.{name}.{part}")
        assert module.PART is parts.find(name, part)
        assert 10 < len(description) < 200, part


def test_listing_imports_no_part_and_not_what_reads_yaml():
    code = (
        "import sys; from speechssl import parts; [parts.names(f) for f in parts.FOLDERS];"
        "print([m for m in sys.modules if m.startswith('speechssl.encoders')], 'omegaconf' in"
        " sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]


@pytest.mark.parametrize(
    "name", ["no_such_package:Class", "speechssl.parts:NoSuchClass", ":Class", ".relative:Class"]
)
def test_code_outside_that_is_not_there_is_one_line(name):
    with pytest.raises(UserError, match="package.module:Class") as error:
        parts.find("encoders", name)
    assert "\n" not in str(error.value)


class Inner(Predictor):
    RENAMED: ClassVar[dict[str, str]] = {"old": "new"}

    def __init__(self, dim: int, *, new: int = 1) -> None:
        super().__init__()


class Outer(Encoder):
    PARTS: ClassVar[dict[str, str]] = {"inner": "predictors"}
    RENAMED: ClassVar[dict[str, str]] = {"size": "embedding_dim"}

    def __init__(self, input_dim: int, *, embedding_dim: int = 1, inner: str = "none") -> None:
        super().__init__()


def test_what_an_older_version_saved_gets_the_names_of_today_at_every_depth():
    inner = {"name": f"{__name__}:Inner", "old": 3}
    saved = {"name": f"{__name__}:Outer", "size": 2, "inner": inner}
    assert parts.with_new_names("encoders", saved) == {
        "name": f"{__name__}:Outer",
        "embedding_dim": 2,
        "inner": {"name": f"{__name__}:Inner", "new": 3},
    }
    assert saved["inner"] == {"name": f"{__name__}:Inner", "old": 3}  # not changed in place


@pytest.mark.parametrize(
    ("encoder", "old", "new"),
    [
        ("ecapa", "embedding", "embedding_dim"),
        ("ecapa", "se", "se_channels"),
        ("resnet", "squeeze_excitation", "se_stages"),
        ("resnet", "block", "block_type"),
    ],
)
def test_a_renamed_setting_is_refused_by_its_old_name_and_translated_if_saved(encoder, old, new):
    with pytest.raises(UserError, match=f"encoder.{old} is called encoder.{new} now"):
        parts.check("encoders", {"name": encoder, old: 1}, "encoder")
    assert parts.with_new_names("encoders", {"name": encoder, old: 1}) == {"name": encoder, new: 1}
