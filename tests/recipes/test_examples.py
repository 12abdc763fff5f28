"""egs/real/run.sh and egs/quickstart/run.sh in miniature: the unmodified scripts, stage by
stage.
"""

import pytest
from builders import noise, read_json, run_script, write_audio

TINY = """
data: {train: [x], crops: [{count: 2, seconds: 0.5}], workers: 0}
features: {n_mels: 24}
encoder: {name: ecapa, width: 16, scale: 2, embedding_dim: 16}
method: METHOD
train: {steps: 4, batch_size: 4, precision: float32, save_every: 2, log_every: 1}
"""
WARM = "{name: simclr, hidden: 0}"
DINO = "{name: dino, prototypes: 8, layers: 1, bottleneck: 8}"


def run(example, *words):
    done = run_script(f"egs/{example}/run.sh", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def speech(tmp_path):
    """A folder with a training set and an evaluation set with trials."""
    for first, name in ((0, "mine"), (6, "test")):
        for i in range(6):
            write_audio(tmp_path / "speech" / name / f"{i}.wav", noise(1 + i / 16, seed=first + i))
    rows = "".join(f"{i}.wav\ts{i % 2}\n" for i in range(6))
    (tmp_path / "speech" / "test" / "utterances.tsv").write_text("path\tspeaker\n" + rows)
    trials = [(int(a % 2 == b % 2), a, b) for a in range(6) for b in range(a)]
    lines = "".join(f"{t} {a}.wav {b}.wav\n" for t, a, b in trials)
    (tmp_path / "speech" / "test" / "trials").write_text(lines)
    (tmp_path / "warm.yaml").write_text(TINY.replace("METHOD", WARM))
    (tmp_path / "dino.yaml").write_text(TINY.replace("METHOD", DINO))
    return tmp_path


@pytest.mark.slow  # thirty commands
def test_real_speech_from_folders_to_the_table_and_on(speech):
    words = ["--data", speech / "speech", "--exp", speech / "exp", "--train", "mine"]
    words += ["--eval", "test", "--config", speech / "dino.yaml", "--at", "2"]
    words += ["--warm-up", speech / "warm.yaml"]
    done = run("real", *words)
    results = read_json(speech / "exp" / "results.json")
    rows = ["mfcc", "untrained", "warm-up", "step-2", "trained", "fitted-untrained", "fitted"]
    assert set(results["eer"]) == {*rows, *(f"{row}-whitened" for row in rows)}
    assert all(0 <= row["test"] <= 100 for row in results["eer"].values())
    assert "trained-whitened" in done.stdout
    assert {"train-warm-up", "train-dino"} <= set(results["seconds_per_stage"])
    begun = (speech / "exp" / "dino" / "config.yaml").read_text()
    assert "warm-up/model" in begun
    whitened = read_json(speech / "exp/eval/trained-whitened/test/results.json")
    assert "whitened" in whitened["scoring"]
    weights = (speech / "exp" / "dino" / "model" / "weights.safetensors").read_bytes()
    run("real", *words, "--stage", "2", "--stop-stage", "2")  # goes on with what is there
    assert (speech / "exp" / "dino" / "model" / "weights.safetensors").read_bytes() == weights


def test_real_speech_is_prepared(speech):
    words = ["--data", speech / "speech", "--exp", speech / "exp", "--train", "mine absent"]
    run("real", *words, "--eval", "test absent", "--stop-stage", "1")
    assert {path.name for path in (speech / "exp/data").iterdir()} == {"mine", "test"}
    assert len((speech / "exp/data/mine/wav.scp").read_text().splitlines()) == 6
    assert (speech / "exp/data/test/trials").is_file()
    stages = (speech / "exp/seconds.tsv").read_text().splitlines()
    assert [line.partition("\t")[0] for line in stages] == ["prepare-mine", "prepare-test"]


@pytest.mark.slow  # ten commands
def test_real_speech_without_a_warm_up_and_nothing_to_evaluate(speech):
    given = ["--data", speech / "speech", "--exp", speech / "exp", "--train", "mine", "--eval", ""]
    given += ["--config", speech / "dino.yaml", "--warm-up", "none", "--telephone"]
    run("real", *given, "train.steps=2")
    exp = speech / "exp"
    assert {path.name for path in (exp / "embeddings").iterdir()} == {
        "mfcc",
        "untrained",
        "trained",
        "fitted-untrained",
        "fitted",
        "banded",
    }
    assert "band_shift: true" in (exp / "banded" / "config.yaml").read_text()
    assert "init: null" in (exp / "dino" / "config.yaml").read_text()
    assert not (exp / "warm-up").exists() and not (exp / "results.json").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--data", "/nowhere"], "is not a folder"), (["--dat", "x"], "run.sh [--data DIR]")],
)
def test_a_mistake_in_the_command_is_told(given, said):
    done = run_script("egs/real/run.sh", *given)
    assert done.returncode == 2 and said in done.stderr


def test_the_quickstart_from_its_second_stage(voices, tmp_path):
    small = [
        "train.steps=2",
        "train.batch_size=8",
        "encoder.width=16",
        "method.hidden=16",
        "train.save_every=2",
    ]
    exp = tmp_path / "exp"
    run("quickstart", "--stage", "2", "--data", voices, "--exp", exp, *small)
    results = read_json(exp / "results.json")
    assert 0 <= results["eer_trained"] <= 100 and 0 <= results["eer_untrained"] <= 100
    assert results["seconds_per_stage"]["train"] > 0
    assert (exp / "eval" / "trained" / "generated" / "det.png").exists()
    assert (exp / "page.html").stat().st_size > 4e6
