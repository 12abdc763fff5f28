"""Shipped configurations: found by name, described, and part of an installed package."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from speechssl import conf, config
from speechssl.cli import main
from speechssl.errors import UserError
from speechssl.pseudolabel import PseudoLabelSettings

ROOT = Path(__file__).parents[1]


def test_a_name_is_a_file_of_the_folder() -> None:
    assert {"dino", "dino-small", "simclr-small"} <= set(conf.names())
    for name in conf.names():
        assert conf.find(name) == ROOT / "speechssl" / "conf" / f"{name}.yaml"
    assert conf.find("nothing") is None
    assert conf.find("../conf/dino") is None


def test_a_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dino").mkdir()  # a folder is no configuration
    assert conf.locate("dino") == conf.find("dino")
    (tmp_path / "dino-small").write_text("seed: 1")
    assert conf.locate("dino-small") == Path("dino-small")


def test_an_unknown_name_is_refused_with_the_nearest_and_all_shipped_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'dino-small'.*dino, dino-small") as error:
        conf.locate("dino_small")
    assert "\n" not in str(error.value)


def test_every_header_is_a_command_and_a_description() -> None:
    for name, description in conf.descriptions().items():
        lines = conf.locate(name).read_text().splitlines()
        assert f" {name} " in lines[0] and "speechssl" in lines[0]
        assert lines[1] == "#" and lines[3] == "#"
        assert description.endswith(".")


def test_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "conf"]) == 0
    printed = capsys.readouterr().out
    for name, description in conf.descriptions().items():
        assert name in printed and description in printed


def test_the_small_rounds_train_with_a_shipped_configuration() -> None:
    values = config.check(PseudoLabelSettings, config.read(conf.locate("rounds-small")), "rounds")
    assert conf.locate(values["train"]) == conf.find("aam-small")


def test_train_takes_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "dino-small", f"data.train=[{tmp_path}/no-data]", "--dry-run"]
    assert main(words) == 2  # the configuration was read: what is missing is the data
    assert "no-data" in capsys.readouterr().err


def test_a_wheel_holds_them(tmp_path: Path) -> None:
    """Built from a copy, because setuptools writes into the folder that it builds."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "speechssl", source / "speechssl", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, ".", "-w", str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"speechssl/conf/{name}.yaml" for name in conf.names()} <= held
    assert "speechssl/py.typed" in held
    files = ("config.yaml", "weights.safetensors", "README.md")
    assert {f"speechssl/models/small/{name}" for name in files} <= held
