"""Votes of utterances for their subjects: hand counts, intervals over subjects, what is refused."""

import json

import numpy as np
import pytest
from builders import write_table

from speechssl.cli import main
from speechssl.errors import UserError
from speechssl.evaluation.classification.classify import Classification, evaluate
from speechssl.evaluation.classification.subjects import measure, vote

YES, NO = "ad", "control"


def predictions(*subjects):
    """A run of `(subject, true class, predicted classes)`, each subject in a fold of its own."""
    ids, truth, predicted, group, folds = [], [], [], [], {}
    for subject, true, guesses in subjects:
        for number, guess in enumerate(guesses):
            name = f"{subject}-{number}"
            ids.append(name)
            truth.append(true)
            predicted.append(guess)
            group.append(subject)
            folds[name] = f"fold-{subject}"
    arrays = [np.array(column) for column in (ids, truth, predicted, group)]
    return Classification({}, *arrays, folds)


def subject_of(run):
    return {name: name.rpartition("-")[0] for name in run.folds}


def test_the_vote_of_the_utterances_by_hand():
    run = predictions(
        ("a", YES, [YES, YES, NO]),
        ("b", YES, [NO, NO, NO]),
        ("c", NO, [NO]),
        ("d", NO, [YES, NO, NO, NO, YES]),
    )
    votes = vote(run, subject_of(run))
    assert votes.subject.tolist() == ["a", "b", "c", "d"]
    assert votes.truth.tolist() == [YES, YES, NO, NO]
    assert votes.predicted.tolist() == [YES, NO, NO, NO]
    assert votes.share.tolist() == pytest.approx([2 / 3, 1, 1, 3 / 5])
    results = measure(votes, replicates=0)
    assert results["count"] == 4 and results["ties"] == 0
    assert results["micro_f1"] == pytest.approx(0.75) and results["micro_f1_interval"] is None
    assert results["class_recall"] == {YES: 0.5, NO: 1.0} and results["uar"] == 0.75
    # F1: ad 2/3 (1 right, 0 false, 1 missed), control 4/5
    assert results["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert results["confusion"] == [[1, 1], [0, 2]]


def test_a_tie_goes_to_the_class_that_is_given_more_often_and_is_counted():
    more_no = predictions(("a", YES, [YES, NO]), ("b", NO, [NO, NO]))
    votes = vote(more_no, subject_of(more_no))
    assert votes.predicted.tolist() == [NO, NO] and votes.tied.tolist() == [True, False]
    more_yes = predictions(("a", YES, [YES, NO]), ("b", YES, [YES, YES]))
    assert vote(more_yes, subject_of(more_yes)).predicted.tolist() == [YES, YES]


def test_a_subject_with_many_utterances_counts_once():
    run = predictions(("a", YES, [NO] * 98), ("b", NO, [NO]), ("c", YES, [YES]))
    assert (run.truth == run.predicted).mean() < 0.03
    assert measure(vote(run, subject_of(run)), replicates=0)["micro_f1"] == pytest.approx(2 / 3)


def test_the_interval_is_that_of_so_many_independent_subjects():
    """Half of 40 subjects right: a binomial's standard error is .079, whatever each one's utterances."""
    subjects = [(f"s{n:02d}", YES, [YES if n % 2 else NO] * (1 + n)) for n in range(40)]
    run = predictions(*subjects)
    results = measure(vote(run, subject_of(run)), replicates=2000)
    low, high = results["micro_f1_interval"]
    assert results["micro_f1"] == 0.5
    assert high - low == pytest.approx(2 * 1.96 * 0.079, abs=0.03)


def test_votes_that_are_right_more_often_than_not_are_better_than_utterances():
    rng = np.random.default_rng(0)
    subjects = []
    for number in range(60):
        true = (YES, NO)[number % 2]
        other = (NO, YES)[number % 2]
        guesses = [true if rng.random() < 0.7 else other for _ in range(15)]
        subjects.append((f"s{number}", true, guesses))
    run = predictions(*subjects)
    # P(at least 8 of 15 right at .7) = .950
    assert 0.6 < (run.truth == run.predicted).mean() < 0.8
    assert measure(vote(run, subject_of(run)), replicates=0)["micro_f1"] > 0.88


def test_what_is_refused():
    run = predictions(("a", YES, [YES, NO]), ("b", NO, [NO]))
    with pytest.raises(UserError, match="1 utterances have no subject, first 'b-0'"):
        vote(run, {"a-0": "a", "a-1": "a"})
    with pytest.raises(UserError, match="both is in folds fold-a and fold-b"):
        vote(run, dict.fromkeys(run.folds, "both"))
    mixed = Classification(
        {}, run.ids, np.array([YES, NO, NO]), run.predicted, run.group, run.folds
    )
    with pytest.raises(UserError, match="a has utterances of control and of ad"):
        vote(mixed, subject_of(mixed))


def diagnosis(folder, subjects=24, each=6, seed=0):
    """Embeddings = subject + half a diagnosis + noise, as files; the diagnosis is a subject's."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=10)
    rows = {"utt2diagnosis": {}, "utt2subject": {}, "utt2spk": {}}
    ids, vectors = [], []
    for number in range(subjects):
        ill = number % 2
        voice = 0.5 * rng.normal(size=10)
        for take in range(each):
            name = f"s{number:02d}-{take}"
            ids.append(name)
            vectors.append(voice + ill * direction + rng.normal(size=10))
            rows["utt2diagnosis"][name] = (NO, YES)[ill]
            rows["utt2subject"][name] = f"s{number:02d}"
            rows["utt2spk"][name] = f"s{number:02d}"
    for name, table in rows.items():
        write_table(folder / name, table)
    np.savez(folder / "e.npz", ids=np.array(ids), embeddings=np.array(vectors, "f4"))
    return folder


def test_the_command_counts_subjects_beside_utterances(tmp_path, capsys):
    folder = diagnosis(tmp_path)
    files = [f"--labels={folder}/utt2diagnosis", f"--groups={folder}/utt2spk"]
    votes = [f"--subjects={folder}/utt2subject", "--replicates=200", f"--out={tmp_path}/out"]
    main(["evaluate", "classification", str(folder / "e.npz"), *files, *votes])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["utterances"] == 144 and results["subjects"]["count"] == 24
    assert results["subjects"]["micro_f1"] >= results["micro_f1"]
    assert "subjects      24" in printed and "recall ad" in printed
    lines = (tmp_path / "out" / "subject_predictions").read_text().splitlines()
    right = sum(line.split()[1] == line.split()[2] for line in lines)
    assert len(lines) == 24 and right / 24 == pytest.approx(results["subjects"]["micro_f1"])


def test_without_the_flag_nothing_is_counted(tmp_path):
    folder = diagnosis(tmp_path, subjects=8)
    with np.load(folder / "e.npz") as arrays:
        ids, embeddings = arrays["ids"], arrays["embeddings"]
    labels = {name: (NO, YES)[int(name[1:3]) % 2] for name in ids.tolist()}
    groups = {name: name[:3] for name in ids.tolist()}
    assert (
        "subjects" not in evaluate(ids, embeddings, labels, groups, folds=4, replicates=0).results
    )


def test_subjects_that_cannot_vote_are_said_before_anything_is_computed(
    tmp_path, capsys, monkeypatch
):
    def computed(*_, **__):
        raise AssertionError("a probe was trained")

    monkeypatch.setattr("speechssl.evaluation.classification.classify.evaluate", computed)
    folder = diagnosis(tmp_path, subjects=8)
    table = folder / "utt2subject"
    files = [f"--labels={folder}/utt2diagnosis", f"--groups={folder}/utt2spk"]
    rest = [f"--subjects={table}", "--replicates=0", f"--out={tmp_path}/out"]
    command = ["evaluate", "classification", str(folder / "e.npz"), *files, *rest]
    lines = table.read_text().splitlines()
    for changed, said in (
        (lines[1:], "1 utterances have no subject"),
        ([lines[0].split()[0] + " " + lines[-1].split()[1], *lines[1:]], "has utterances of"),
    ):
        table.write_text("\n".join(changed) + "\n")
        assert main(command) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out" / "results.json").exists()


def test_what_was_computed_is_kept_where_the_votes_cannot_be_counted(tmp_path, capsys):
    """Folds of one's own may have a subject twice: only the predictions tell."""
    folder = diagnosis(tmp_path, subjects=8)
    names = [line.split()[0] for line in (folder / "utt2subject").read_text().splitlines()]
    (folder / "folds").write_text("".join(f"{name} f{int(name[-1]) % 2}\n" for name in names))
    (folder / "utt2own").write_text("".join(f"{name} {name}\n" for name in names))
    files = [f"--labels={folder}/utt2diagnosis", f"--groups={folder}/utt2own"]
    rest = [f"--subjects={folder}/utt2subject", "--replicates=0", f"--out={tmp_path}/out"]
    rest += [f"--folds={folder}/folds"]
    assert main(["evaluate", "classification", str(folder / "e.npz"), *files, *rest]) == 2
    printed = capsys.readouterr()
    assert "is in folds" in printed.err and "macro_f1" in printed.out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["utterances"] == 48 and "subjects" not in results


@pytest.mark.parametrize("verb", [["evaluate", "classification", "e.npz"], ["finetune", "M", "D"]])
def test_a_table_of_subjects_that_is_not_there_is_said_before_anything_is_computed(verb, capsys):
    assert main([*verb, "--labels=no-l", "--groups=no-g", "--subjects=no-subjects"]) == 2
    assert "no-subjects" in capsys.readouterr().err
