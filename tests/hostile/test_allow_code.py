"""A folder that names code: refused by every verb, built with the user's word, and never run before."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import make_model, write_audio

CODE = """
from pathlib import Path
Path("ran").touch()
from speechssl.encoders.ecapa import ECAPA
class Mine(ECAPA):
    pass
"""
VERBS = {
    "embed": ["embed", "model", "audio", "--out", "out.npz"],
    "embed with jobs": ["embed", "model", "audio", "--out", "out.npz", "--jobs", "2"],
    "export": ["export", "model", "--to", "torchscript", "--out", "out"],
    "diagnose": ["diagnose", "model", "audio", "--utterances", "3", "--seconds", "0.5"],
    "average": ["average", "run", "--out", "out"],
}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A model folder and a run folder that name a module which lies beside them."""
    model = make_model()
    model.settings["encoder"]["name"] = "beside:Mine"
    model.save(tmp_path / "model")
    (tmp_path / "run/snapshots").mkdir(parents=True)
    torch.save(model.encoder.state_dict(), tmp_path / "run/snapshots/step-00000001.pt")
    config = yaml.safe_load((tmp_path / "model/config.yaml").read_text())
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "run/about.yaml").write_text("seed: 0\n")
    (tmp_path / "beside.py").write_text(CODE)
    rng = np.random.default_rng(0)
    for name in "abc":
        write_audio(tmp_path / "audio" / f"{name}.wav", 0.1 * rng.standard_normal(16000), 16000)
    return tmp_path


def run(world: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", "speechssl", *words],
        capture_output=True,
        text=True,
        cwd=world,
        env=environment,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_runs_code_with_the_users_word_only(world: Path, verb: str) -> None:
    refused = run(world, *VERBS[verb])
    assert refused.returncode == 2
    assert "--allow-code beside" in refused.stderr and refused.stderr.count("\n") == 1
    assert not (world / "ran").exists()
    done = run(world, *VERBS[verb], "--allow-code", "beside")
    assert done.returncode == 0, done.stderr
    assert (world / "ran").exists()


def test_load_from_python(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import speechssl
    from speechssl.errors import UserError

    monkeypatch.chdir(world)
    monkeypatch.syspath_prepend(str(world))
    with pytest.raises(UserError, match="--allow-code beside"):
        speechssl.load("model")
    assert not (world / "ran").exists()
    speechssl.load("model", allow_code=["beside"])
    assert (world / "ran").exists()
