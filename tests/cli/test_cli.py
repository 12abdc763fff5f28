"""The command: its speed, its exit codes, its one-line errors, and the verbs that it carries
through.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from builders import make_model, noise, write_audio

from speechssl import config, parts
from speechssl.cli import command, main
from speechssl.errors import UserError

COMMAND = [sys.executable, "-m", "speechssl"]


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that must end with code 2."""
    try:
        code = main(argv)
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr().err
    assert code == 2, printed
    assert printed.startswith("speechssl: error: ") and printed.count("\n") == 1, printed
    return printed


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A folder with three utterances in the plane and four trials: cosines 0.8 and 0, 0.6 and 1."""
    vectors = np.array([[1, 0], [4, 3], [0, 1], [2, 0]], np.float32)
    np.savez(tmp_path / "emb.npz", ids=np.array(["a", "b", "c", "d"]), embeddings=vectors)
    lines = ["a b target", "a c nontarget", "b c nontarget", "a d target"]
    (tmp_path / "trials").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert "evaluate" in done.stdout
    assert min(seconds) < 0.5


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"prepare", "train", "embed", "list"} <= set(command.verbs())
    for verb in command.verbs():
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: speechssl {verb}")


SCORE = ["score", "emb.npz", "--out", "scores"]
EMBED = ["embed", "mfcc", "a.wav", "--out", "a.npz"]
FEDERATE = ["federate", "dino-small", "--out", "run"]
PASSED_OVER = [
    ([*SCORE, "--trials", "t", "--calibrate-with", "x"], "--calibrate-with goes with --cal"),
    ([*SCORE, "--trials", "t", "--plda-dim", "3"], "--plda-dim and --plda-pca go with --plda"),
    ([*SCORE, "--nearest", "1", "--keep-going"], "--keep-going needs --trials"),
    ([*SCORE, "--nearest", "1", "--plda-classes", "x"], "--plda-classes needs --trials"),
    (["report", "x", "--clips", "5"], "--clips is for the page"),
    (["report", "x", "--map", "pca"], "--map is for the page"),
    (["report", "x", "--det", "s3://bucket/det.png"], "disk of this machine only"),
    (["watch", "x", "--page", "s3://bucket/page.html"], "disk of this machine only"),
    ([*EMBED, "--worker-cpus", "4"], "--worker-cpus go with --engine ray"),
    (["sweep", "dino-small", "--only", "a", "--out", "x"], "--only goes with --arms"),
    ([*FEDERATE, "--tls-ca", "x"], "--tls-ca and --insecure go with --serve or --join"),
    ([*FEDERATE, "--join", "127.0.0.1:1", "--tls-key", "x"], "--tls-key go with --serve"),
]
"""Flags that would be passed over in silence."""


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "VERB"),
        (["embedd"], "no 'embedd' (did you mean 'embed'?)"),
        (["train", "x.yaml"], "--out"),
        (["list", "decoders"], "no 'decoders' (did you mean 'encoders'?)"),
        (["prepare", "librispech", "a", "b"], "no 'librispech'"),
        (["average", "/nowhere/run"], "/nowhere/run"),
        (["calibrate", "small", "e.npz", "--trials", "t"], "small comes with the package"),
        (["validate", "/nowhere/data"], "1 problem, listed above"),
        (["train", "/nowhere/conf.yaml", "--out", "/tmp/never"], "/nowhere/conf.yaml"),
        (
            ["evaluate", "verification", "/nowhere/emb.npz", "--trials", "/nowhere/trials"],
            "/nowhere/",
        ),
        (["embed", "/nowhere/model", "a.wav", "--out", "x.npz"], "/nowhere/model"),
        *PASSED_OVER,
    ],
)
def test_a_users_mistake_is_one_line(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in error_of(argv, capsys)


def test_the_documented_verb_is_one_file(tmp_path: Path) -> None:
    """The example at the top of command.py, put into a copy of the package."""
    import soundfile

    root = Path(command.__file__).parents[1]
    copied = tmp_path / "speechssl"
    shutil.copytree(root, copied, ignore=shutil.ignore_patterns("__pycache__"))
    indented = command.__doc__.partition("lists it:\n\n")[2].partition("* The module's name")[0]
    (copied / "cli" / "count.py").write_text(textwrap.dedent(indented))
    soundfile.write(tmp_path / "a.wav", np.ones(8000, np.float32) / 10, 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\nb {tmp_path}/a.wav\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for words, said in ((["--help"], "Count the utterances of"), (["count", str(tmp_path)], "2")):
        done = subprocess.run(
            [*COMMAND, *words], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0 and said in done.stdout, done.stderr


def test_only_the_verb_that_is_used_is_imported() -> None:
    code = (
        "import sys; from speechssl.cli import main; main(['list', 'encoders']);"
        " print([name for name in sys.modules if name.startswith('speechssl.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "speechssl.cli.list" in done.stdout and "speechssl.cli.train" not in done.stdout


def test_a_warning_is_one_line_and_shown_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(_: object) -> None:
        for text in ("two\nlines", "two\nlines", "another"):
            warnings.warn(text, stacklevel=1)

    monkeypatch.setattr("speechssl.cli.list.run", warn)
    assert main(["list"]) == 0
    said = ["speechssl: warning: two lines", "speechssl: warning: another"]
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (["shard", "a", "b", "--seed", "-1"], "argument --seed: must be at least 0, not -1"),
        (["shard", "a", "b", "--megabytes", "0.2"], "--megabytes: must be a whole number, not 0.2"),
        (["cluster", "a", "--out", "b", "--keep-fraction", "x"], "must be a number, not x"),
        (["shard", "a", "b", "--jobs", "0"], "argument --jobs: must be at least 1, not 0"),
        (["train", "dino", "--minutes", "0"], "argument --minutes: must be above 0, not 0"),
        (["train", "dino", "--minutes", "nan"], "argument --minutes: must be above 0, not nan"),
        (
            ["embed", "a", "b", "--out", "c", "--every", "x"],
            "argument --every: must be a whole number, not x",
        ),
        (["cluster", "a", "--out", "b", "--pca", "-1"], "argument --pca: must be at least 0"),
        (["cluster", "a", "--out", "b", "--pca", "nan"], "argument --pca: must be a finite"),
        (["diagnose", "a", "b", "--seconds", "nan"], "argument --seconds: must be above 0"),
    ],
)
def test_numbers_are_checked(
    word: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in error_of(word, capsys)


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("speechssl.cli.list.run", interrupted)
    assert main(["list"]) == 130


def test_user_error_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def mistaken(_: object) -> None:
        raise UserError("a.wav: empty; remove it")

    monkeypatch.setattr("speechssl.cli.list.run", mistaken)
    assert error_of(["list"], capsys) == "speechssl: error: a.wav: empty; remove it\n"


def test_a_file_whose_name_begins_with_a_dash_gets_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-call.wav").touch()
    said = error_of(["embed", "small", "-call.wav", "--out", "x.npz"], capsys)
    assert "(-call.wav is a file here: write ./-call.wav)" in said and said.count("\n") == 1
    assert "is a file here" not in error_of(["embed", "small", "--nonsense"], capsys)


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "list"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("verb", ["evaluate.verification", "score", "calibrate"])
def test_what_reads_embeddings_does_not_wait_for_torch(verb: str) -> None:
    code = (
        f"import sys; import speechssl.cli.{verb}, speechssl.evaluation.verification.verify;"
        " assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_list_names_the_parts_without_importing_them() -> None:
    code = (
        "import sys; from speechssl.cli import main; main(['list']);"
        " assert 'torch' not in sys.modules"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for part in (
        "encoders:",
        "  ecapa ",
        "  resnet ",
        "methods:",
        "  dino ",
        "corpora:",
        "  synthetic ",
    ):
        assert part in printed
    assert "  _" not in printed


def test_list_prints_the_whole_description_of_every_part(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in parts.FOLDERS:
        assert main(["list", folder]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(parts.names(folder))
        for line in lines:
            assert len(line.split()) > 2 and line.endswith((".", ")", "`"))


def test_score_writes_cosines(scored: Path) -> None:
    out = scored / "scores"
    assert (
        main(["score", f"{scored}/emb.npz", "--trials", f"{scored}/trials", "--out", str(out)]) == 0
    )
    rows = [line.split() for line in out.read_text().splitlines()]
    assert [row[:2] for row in rows] == [["a", "b"], ["a", "c"], ["b", "c"], ["a", "d"]]
    np.testing.assert_allclose([float(row[2]) for row in rows], [0.8, 0.0, 0.6, 1.0], atol=1e-6)


def test_verification_prints_a_table_and_writes_the_results(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = scored / "out"
    argv = ["evaluate", "verification", f"{scored}/emb.npz", "--trials", f"{scored}/trials"]
    assert main([*argv, "--out", str(out), "--replicates", "0", "--model", "hand"]) == 0
    assert "eer           0.000%" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert (results["eer"], results["trials"], results["model"]) == (0.0, 4, "hand")
    assert (out / "det.png").stat().st_size > 1000 and (out / "scores.png").stat().st_size > 1000
    assert len((out / "scores").read_text().splitlines()) == 4


def test_unknown_id_in_the_trials(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (scored / "trials").open("a") as file:
        file.write("a zebra nontarget\n")
    argv = [
        "evaluate",
        "verification",
        f"{scored}/emb.npz",
        "--trials",
        f"{scored}/trials",
        "--replicates",
        "0",
    ]
    assert "'zebra'" in error_of(argv, capsys)
    assert main([*argv, "--keep-going"]) == 0
    assert "trials        4 (2 targets, 2 non-targets)" in capsys.readouterr().out


def test_collapse_is_50_percent_and_one_warning(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = np.ones((4, 2), np.float32)
    np.savez(scored / "same.npz", ids=np.array(["a", "b", "c", "d"]), embeddings=same)
    argv = ["evaluate", "verification", f"{scored}/same.npz", "--trials", f"{scored}/trials"]
    assert main([*argv, "--replicates", "0", "--out", str(scored / "out")]) == 0
    printed = capsys.readouterr()
    assert "eer           50.000%" in printed.out
    assert printed.err.startswith("speechssl: warning: ") and printed.err.count("\n") == 1


def test_validate_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wav.scp").write_text("b /nowhere/b.wav\na /nowhere/a.wav\n")
    assert main(["validate", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "no such file: /nowhere/b.wav" in printed.out and "is not sorted" in printed.out
    assert printed.err.count("\n") == 1


def test_embed_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A good file and one that is not audio: one embedding, one line in the list of the failed,
    code 0.
    """
    make_model("resnet").save(tmp_path / "model")
    write_audio(tmp_path / "good.wav", noise(1.0))
    (tmp_path / "bad.wav").write_text("no audio")
    argv = ["embed", f"{tmp_path}/model", f"{tmp_path}/good.wav", f"{tmp_path}/bad.wav"]
    argv += ["--out", f"{tmp_path}/emb.npz", "--device", "cpu"]
    assert main(argv) == 0
    assert "embedded 1 of 2 utterances" in capsys.readouterr().err
    assert np.load(tmp_path / "emb.npz")["embeddings"].shape == (1, 12)
    assert "bad.wav" in (tmp_path / "emb.npz.failed").read_text()
    assert "bad.wav" in error_of([*argv, "--strict"], capsys)


def test_intervals_go_over_the_speakers_given(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scored / "utt2spk").write_text("a x\nb x\nc y\nd x\n")
    argv = [
        "evaluate",
        "verification",
        f"{scored}/emb.npz",
        "--trials",
        f"{scored}/trials",
        "--replicates",
        "20",
    ]
    for speakers in (scored / "utt2spk", scored):
        assert main([*argv, "--speakers", str(speakers), "--out", f"{scored}/out"]) == 0
        results = json.loads((scored / "out" / "results.json").read_text())
        assert (results["interval_over"], results["eer"]) == ("speakers", 0.0)
    capsys.readouterr()
    assert "/nowhere/utt2spk" in error_of([*argv, "--speakers", "/nowhere/utt2spk"], capsys)


def test_training_needs_a_folder_unless_it_is_a_rehearsal(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "nowhere.yaml"]) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert main(["train", "nowhere.yaml", "--dry-run"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_list_prints_the_settings_of_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "clustering", "kmeans"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Spherical k-means")
    rows = {line.split()[0]: line.split(None, 2)[1:] for line in lines[1:]}
    assert rows["max_iter"][0] == "20"
    assert rows["max_iter"][1].startswith("iterations at most")
    assert rows["sample_size"][0] == "0"


def test_list_prints_a_shipped_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "conf", "dino-small"]) == 0
    assert capsys.readouterr().out.startswith("# speechssl train dino-small ")


@pytest.mark.parametrize("folder", parts.FOLDERS)
def test_list_prints_every_setting_of_every_part(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in parts.names(folder):
        part = parts.find(folder, name)
        assert main(["list", folder, name]) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        settings = list(config.schema(part)) if callable(part) else []
        assert [line.split()[0] for line in lines] == (settings or ["no"])
        if settings:
            without_help = [line for line in lines if len(line.split()) < 5]
            assert not without_help, f"{folder} {name}"


def test_a_part_that_is_a_record_has_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "foreign", "wespeaker"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["no settings"]


def test_list_explains_settings_that_share_a_line_of_the_docstring(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list", "methods", "dino"]) == 0
    rows = {}
    for line in capsys.readouterr().out.splitlines()[1:]:
        name, _default, text = line.split(None, 2)
        rows[name] = text
    assert rows["teacher_momentum"] == rows["teacher_momentum_end"]
    assert rows["hidden"].startswith("size of the head's layers")


@pytest.mark.parametrize(
    "words",
    [
        "--epochs -1",
        "--affine-steps x",
        "--lr 0",
        "--seconds -3",
        "--batch-size 0",
        "--fractions 2",
    ],
)
def test_numbers_of_finetune_are_checked_before_anything_is_read(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["finetune", "M", "D", "--labels", "L", "--groups", "G", *words.split()]
    assert words.split()[0] in error_of(argv, capsys)
