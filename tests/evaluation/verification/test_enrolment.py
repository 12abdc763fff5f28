"""Trials between enrolled models: the mean of their utterances, whoever is averaged by hand."""

import numpy as np
import pytest

from speechssl.cli import main
from speechssl.data.trials import Trials, read_enrolment, read_pairs, write_pairs
from speechssl.errors import UserError
from speechssl.evaluation.verification.settings import VerificationSettings
from speechssl.evaluation.verification.verify import score, score_lines, verify
from tests.builders import read_json

MODELS = {"A": ["u0", "u1", "u2"], "B": ["u3"], "C": ["u4", "u5"]}


def made():
    matrix = np.random.default_rng(0).normal(size=(8, 6)).astype("f4")
    return [f"u{i}" for i in range(8)], matrix


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def trials(*rows):
    enrol, test, target = zip(*rows, strict=True)
    return Trials(np.array(enrol), np.array(test), np.array(target))


LIST = trials(("A", "u6", True), ("B", "u6", False), ("C", "u7", True), ("A", "C", False))


def test_a_model_is_the_mean_of_its_utterances_on_either_side():
    ids, x = made()
    run = verify((ids, x), LIST, enrol=MODELS, replicates=0)
    a, c = x[:3].mean(0), x[4:6].mean(0)
    expected = [cosine(a, x[6]), cosine(x[3], x[6]), cosine(c, x[7]), cosine(a, c)]
    np.testing.assert_allclose(run.scores, expected, atol=1e-6)
    assert run.results["enrolled_models"] == 3
    assert run.results["scoring"] == "cosine, models of 1 to 3 utterances"


def test_a_training_mean_is_subtracted_from_models_as_from_utterances():
    ids, x = made()
    training = np.random.default_rng(1).normal(size=(50, 6)).astype("f4")
    mean = ([f"t{i}" for i in range(50)], training)
    run = verify((ids, x), LIST, enrol=MODELS, mean=mean, replicates=0)
    centre = training.mean(0)
    expected = cosine((x[:3] - centre).mean(0), x[6] - centre)
    assert run.scores[0] == pytest.approx(expected, abs=1e-5)


def test_a_model_of_one_utterance_scores_as_the_utterance():
    ids, x = made()
    alone = {f"m{i}": [name] for i, name in enumerate(ids)}
    rows = [("0", "1", True), ("2", "3", False), ("4", "7", False)]
    plain = verify((ids, x), trials(*[(f"u{a}", f"u{b}", t) for a, b, t in rows]), replicates=20)
    models = verify(
        (ids, x), trials(*[(f"m{a}", f"u{b}", t) for a, b, t in rows]), enrol=alone, replicates=20
    )
    np.testing.assert_allclose(models.scores, plain.scores, atol=1e-6)
    assert models.results["eer_interval"] == plain.results["eer_interval"]


def test_one_name_for_a_model_and_an_utterance_means_the_model_first():
    ids, x = made()
    run = verify(
        (ids, x),
        trials(("u0", "u0", True), ("u0", "u7", False)),
        enrol={"u0": ["u1", "u2"]},
        replicates=0,
    )
    assert run.scores[0] == pytest.approx(cosine(x[1:3].mean(0), x[0]), abs=1e-6)


def test_speakers_of_models_are_those_of_their_utterances():
    ids, x = made()
    speakers = {name: name for name in ids}
    speakers |= {"u0": "s", "u1": "s", "u2": "s"}
    run = verify((ids, x), LIST, enrol=MODELS, speakers=speakers, replicates=20)
    assert run.results["interval_over"] == "speakers"


def test_utterances_without_an_embedding():
    ids, x = made()
    models = {**MODELS, "A": ["u0", "u1", "u2", "gone"], "D": ["lost"]}
    with pytest.raises(UserError, match="'gone' of model 'A' has no embedding"):
        verify((ids, x), LIST, enrol=models, replicates=0)
    kept = verify((ids, x), LIST, enrol=models, replicates=0, keep_going=True)
    whole = verify((ids, x), LIST, enrol=MODELS, replicates=0)
    np.testing.assert_array_equal(kept.scores, whole.scores)


def test_no_model_has_an_utterance_with_an_embedding():
    ids, x = made()
    pairs = trials(("u0", "u1", True), ("u2", "u3", False))
    run = verify((ids, x), pairs, enrol={"D": ["lost"]}, replicates=0, keep_going=True)
    assert run.results["enrolled_models"] == 0
    assert run.results["scoring"] == "cosine"


def test_a_list_without_trials_is_refused():
    none = Trials(np.array([], str), np.array([], str), np.array([], bool))
    with pytest.raises(UserError, match="no trials"):
        verify(made(), none, replicates=0)


def test_read_enrolment(tmp_path):
    path = tmp_path / "spk2utt"
    path.write_text("A u0 u1 u0\nB u3\nA u2 u1\n\n")
    assert read_enrolment(path) == {"A": ["u0", "u1", "u2"], "B": ["u3"]}
    for text, message in (("A u0\nB\n", ":2: model 'B' has no utterance"), ("\n", "is empty")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_enrolment(path)


def test_the_command(tmp_path, capsys):
    ids, x = made()
    np.savez(tmp_path / "emb.npz", ids=np.array(ids), embeddings=x)
    (tmp_path / "spk2utt").write_text("".join(f"{m} {' '.join(u)}\n" for m, u in MODELS.items()))
    (tmp_path / "trials").write_text("A u6 target\nB u6 nontarget\nA C nontarget\n")
    emb = str(tmp_path / "emb.npz")
    lists = ["--trials", str(tmp_path / "trials"), "--enrol", str(tmp_path / "spk2utt")]
    out = tmp_path / "out"
    command = ["evaluate", "verification", emb, *lists, "--replicates", "0", "--out", str(out)]
    assert main(command) == 0
    assert read_json(out / "results.json")["enrolled_models"] == 3
    assert main(["score", emb, *lists, "--out", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[-1].split()[2]) == pytest.approx(
        cosine(x[:3].mean(0), x[4:6].mean(0)), abs=1e-6
    )
    command = ["score", emb, "--nearest", "2", "--enrol", str(tmp_path / "spk2utt"), "--out", "-"]
    assert main(command) == 2


def test_a_list_without_answers_is_scored(tmp_path):
    """Cosines of pairs, by hand; every line must have the form of the first."""
    embeddings = (np.array(["a", "b"]), np.array([[1.0, 0.0], [1.0, 1.0]], np.float32))
    path = tmp_path / "pairs"
    path.write_text("a b\n\nb b\n")
    pairs = read_pairs(path)
    scored = score(embeddings, pairs, VerificationSettings())
    np.testing.assert_allclose(scored.scores, [0.5**0.5, 1.0], rtol=1e-6)
    assert list(score_lines(pairs, np.array([0.5, 1.0]))) == ["a b 0.5\n", "b b 1\n"]
    with pytest.raises(UserError, match="0 target trials of 2"):
        verify(embeddings, pairs)
    write_pairs(pairs, path)
    assert path.read_text() == "a b\nb b\n"
    path.write_text("a b\n1 a b\n")
    with pytest.raises(UserError, match="pairs:2: '1 a b' is not `enrol test`"):
        read_pairs(path)
    path.write_text("1 a b\n0 a b\n")
    assert read_pairs(path).target.tolist() == [True, False]
