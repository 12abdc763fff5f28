"""The README: every line of "Your audio" runs, in order, from an empty folder with a built wheel.

And its links lead somewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomllib
import yaml
from builders import RATE, ROOT, write_audio

from speechssl import parts
from speechssl.corpora import synthetic

SMALLER = (
    (r"--minutes \d+", "--minutes 0.02"),
    (r"(speechssl train \S+)", r"\1 train.batch_size=8 encoder.width=32 data.workers=0"),
    (r"n_clusters=100", "n_clusters=4"),
    (
        r"(speechssl pseudolabel \S+)",
        r"\1 rounds=1 clusterer.n_centroids=0 clusterer.n_clusters=4 min_cluster_size=1"
        r" 'overrides=[train.steps=2,train.batch_size=8,data.workers=0]'",
    ),
    (r"(speechssl finetune .*)", r"\1 --affine-steps 5 --epochs 1 --folds 2 --fractions 1"),
)
"""What makes minutes of the README seconds here: less of the same. Nothing else is changed."""


def lines() -> list[str]:
    """Return the commands of "Your audio", without their comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Your audio\n")[2].partition("\n* ")[0]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    speechssl ")]
    return [re.sub(r"\s+#.*", "", command) for command in commands]


def test_the_section_has_lines_and_names_most_verbs() -> None:
    verbs = {line.split()[1] for line in lines()}
    assert len(lines()) >= 20
    assert {"prepare", "train", "embed", "verify", "identify", "predict", "report"} <= verbs


def test_every_link_of_the_page_leads_somewhere() -> None:
    """Files of the repository exist, headings exist, and each [name] has one address."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    inline = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [link for link in inline if not link.startswith("http")]
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in headings}
    missing = [
        link
        for link in local
        if link not in anchors and not (ROOT / link.partition("#")[0]).exists()
    ]
    assert local and not missing
    defined = set(re.findall(r"^\[([^\]]+)\]: https://\S+$", text, re.MULTILINE))
    prose = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    pairs = re.findall(r"\[([^\][]+)\](?:\[([^\]]+)\])?(?![(:\]])", prose)
    used = {second or first for first, second in pairs if second or first in defined}
    assert used == defined


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / ".github" / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert citation["references"][0]["doi"] in readme


def install(wheel_folder: Path, target: Path) -> None:
    """Build a wheel from a copy of the repository and unpack it into `target`."""
    source = wheel_folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "speechssl", source / "speechssl", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", ".", "-w", str(wheel_folder)]
    subprocess.run([*pip, *build], cwd=source, check=True, capture_output=True)
    (wheel,) = wheel_folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)


def make_audio(folder: Path) -> None:
    """Make what the README's words in capitals stand for, beside each other in `folder`."""
    synthetic.prepare(
        str(folder / "AUDIO"), str(folder / "tables"), speakers=6, evaluation_speakers=2,
        utterances=4, shortest=1.0, longest=1.4,
    )  # fmt: skip
    shutil.rmtree(folder / "tables")
    files = sorted(path for path in (folder / "AUDIO").rglob("*") if path.is_file())
    ids = [path.relative_to(folder / "AUDIO").as_posix() for path in files]
    voice = {name: Path(name).parent.name for name in ids}
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    words = {True: "target", False: "nontarget"}
    rows = [f"{a} {b} {words[voice[a] == voice[b]]}\n" for a, b in pairs]
    (folder / "TRIALS").write_text("".join(rows))
    assert "target\n" in {row.split(" ")[2] for row in rows}
    for name, path in (("A.wav", files[0]), ("B.wav", files[-1])):
        shutil.copy(path, folder / name)
    for place in ("KNOWN/anna", "KNOWN/ben", "NEW"):
        (folder / place).mkdir(parents=True)
    shutil.copy(files[0], folder / "KNOWN" / "anna")
    shutil.copy(files[-1], folder / "KNOWN" / "ben")
    shutil.copy(files[1], folder / "NEW")
    (folder / "UTT2SPK").write_text("".join(f"{name} {voice[name]}\n" for name in ids))
    emotions = [f"{name} {'glad' if i % 2 else 'sad'}\n" for i, name in enumerate(ids)]
    (folder / "UTT2EMOTION").write_text("".join(emotions))
    noise = np.random.default_rng(0).normal(0, 0.1, 8 * RATE).astype(np.float32)
    for name in ("TALK.m4a", "CALL.mp4", "MEETING.wav"):  # content decides, not the name
        write_audio(folder / "made.wav", noise)
        os.replace(folder / "made.wav", folder / name)


@pytest.mark.slow
def test_every_line_runs_from_an_empty_folder_with_a_wheel(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(tmp_path / "wheel", site)
    work = tmp_path / "work"
    work.mkdir()
    make_audio(work)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "speechssl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m speechssl "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "OMP_NUM_THREADS": "1",
    }
    where = [sys.executable, "-c", "import speechssl; print(speechssl.__file__)"]
    found = subprocess.run(where, cwd=work, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(site))
    for line in lines():
        for pattern, smaller in SMALLER:
            line = re.sub(pattern, smaller, line)
        done = subprocess.run(
            ["bash", "-c", line], cwd=work, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-500:]}{done.stderr[-1500:]}"
        assert "Traceback" not in done.stderr, f"{line}\n{done.stderr[-1500:]}"
    for made in ("mine.npz", "windows.npz", "who.tsv", "emotions.tsv", "voices.safetensors"):
        assert (work / made).is_file(), made


NUMBERS = {7: "seven", 8: "eight", 9: "nine", 10: "ten", 21: "twenty-one", 22: "twenty-two"}


def test_numbers_of_parts_are_those_there_are() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    others = len(parts.names("methods")) - 2  # DINO itself, and AAM-softmax, which wants classes
    assert f"DINO and {NUMBERS[others]} other methods" in text
    assert f"{NUMBERS[len(parts.names('predictors'))]} predictors" in text
    assert f"{NUMBERS[len(parts.names('encoders'))]} encoders" in text
