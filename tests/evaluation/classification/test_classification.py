"""Classification: chance on shuffled labels, no group in two folds, hand-counted figures, the
command.
"""

import json

import numpy as np
import pytest
from builders import write_table
from sklearn.linear_model import LogisticRegression

from speechssl import metrics
from speechssl.cli import main
from speechssl.errors import UserError
from speechssl.evaluation.classification import classify, comparing
from speechssl.evaluation.classification.classifiers import RowSpace, kinds
from speechssl.evaluation.classification.classify import evaluate

CLASSES = ("angry", "happy", "neutral", "sad")


def world(speakers=10, each=16, strength=2.0, seed=0, shuffled=False):
    """Embeddings = speaker + class + noise; every speaker says every class."""
    rng = np.random.default_rng(seed)
    dim = 12
    voice, style = rng.normal(size=(speakers, dim)), strength * rng.normal(size=(4, dim))
    who, what = np.repeat(np.arange(speakers), each), np.tile(np.arange(4), speakers * each // 4)
    x = (voice[who] + style[what] + rng.normal(size=(len(who), dim))).astype("f4")
    if shuffled:
        what = rng.permutation(what)
    ids = np.array([f"u{i:04d}" for i in range(len(who))])
    labels = {name: CLASSES[c] for name, c in zip(ids.tolist(), what, strict=True)}
    groups = {name: f"s{s}" for name, s in zip(ids.tolist(), who, strict=True)}
    return ids, x, labels, groups


def test_what_is_there_is_found_and_the_figures_are_scikit_learns():
    from sklearn.metrics import confusion_matrix, f1_score, recall_score

    run = evaluate(*world(), replicates=100)
    r = run.results
    assert r["macro_f1"] > 0.85
    assert r["micro_f1"] == pytest.approx((run.truth == run.predicted).mean())
    assert r["macro_f1"] == pytest.approx(f1_score(run.truth, run.predicted, average="macro"))
    assert r["uar"] == pytest.approx(recall_score(run.truth, run.predicted, average="macro"))
    assert r["confusion"] == confusion_matrix(run.truth, run.predicted).tolist()
    assert list(r["class_f1"]) == list(CLASSES) and len(r["micro_f1_folds"]) == 5
    low, high = r["uar_interval"]
    assert low < r["uar"] < high or low <= r["uar"] <= high
    assert r["majority"]["micro_f1"] <= 0.3


@pytest.mark.parametrize("classifier", kinds(True, 0))
def test_every_classifier_beats_the_majority(classifier):
    r = evaluate(*world(strength=3.0), classifier=classifier, folds=3, replicates=0).results
    assert r["uar"] > 0.8 and r["uar_interval"] is None and len(r["chosen"]) == 3


def test_k_nearest_neighbours_of_fewer_than_k_rows():
    assert evaluate(*world(4, 8, 3.0), classifier="knn", folds=4, replicates=0).results["uar"] > 0.5


def test_too_few_rows_for_a_classifier_are_one_line():
    with pytest.raises(UserError, match="4 training utterances are too few .*; take logistic"):
        evaluate(*world(3, 4), classifier="mlp", folds=3, replicates=0)


def test_intervals_are_those_of_a_bootstrap_over_utterances():
    run = evaluate(*world(strength=1.0), replicates=50, seed=3)
    for key, measure in (("uar", metrics.uar), ("macro_f1", metrics.macro_f1)):
        interval = metrics.bootstrap_interval(
            lambda weights, of=measure: of(run.truth, run.predicted, weights),
            run.group,
            replicates=50,
            seed=3,
        )
        assert run.results[f"{key}_interval"] == pytest.approx(interval, abs=1e-12)


def test_shuffled_labels_give_chance_within_the_interval():
    r = evaluate(*world(speakers=20, shuffled=True), replicates=300).results
    low, high = r["uar_interval"]
    assert low <= 0.25 <= high


@pytest.mark.parametrize("folds", [2, 5, 0])
def test_no_group_is_in_two_folds_and_every_utterance_is_tested_once(folds):
    r = evaluate(*world(), folds=folds, replicates=0).results
    members = [group for groups in r["folds"].values() for group in groups]
    assert sorted(members) == sorted(f"s{i}" for i in range(10)) and len(r["folds"]) == (
        folds or 10
    )
    assert np.array(r["confusion"]).sum() == 160


def test_a_group_that_is_forced_into_two_folds_is_refused():
    ids, x, labels, groups = world()
    folds = {name: f"f{number % 2}" for number, name in enumerate(ids.tolist())}
    with pytest.raises(UserError, match="group s0 is in folds f0, f1"):
        evaluate(ids, x, labels, groups, folds=folds)


def test_official_folds_are_taken_as_they_are():
    ids, x, labels, groups = world()
    folds = {name: "one" if groups[name] in ("s0", "s1") else "two" for name in ids.tolist()}
    r = evaluate(ids, x, labels, groups, folds=folds, replicates=0).results
    assert r["folds"] == {"one": ["s0", "s1"], "two": [f"s{i}" for i in range(2, 10)]}


def test_the_same_seed_is_the_same_result_and_order_does_not_matter_to_folds_of_one_group():
    data = world()
    assert evaluate(*data, replicates=20).results == evaluate(*data, replicates=20).results
    ids, x, labels, groups = data
    turn = np.random.default_rng(1).permutation(len(ids))
    a = evaluate(ids, x, labels, groups, folds=0, replicates=0)
    b = evaluate(ids[turn], x[turn], labels, groups, folds=0, replicates=0)
    assert dict(zip(a.ids, a.predicted, strict=True)) == dict(zip(b.ids, b.predicted, strict=True))


def test_the_test_folds_do_not_reach_the_standardisation():
    ids, x, labels, groups = world()
    far = x.copy()
    rows = np.array([groups[name] == "s0" for name in ids.tolist()])
    far[rows] += 1e4
    a = evaluate(ids, x, labels, groups, folds=0, replicates=0)
    b = evaluate(ids, far, labels, groups, folds=0, replicates=0)
    # a model that is trained without s0 in its training folds is the same with and without the
    # change
    assert a.results["chosen"]["s0"] == b.results["chosen"]["s0"]


def test_utterances_without_a_label_are_left_out_and_counted():
    ids, x, labels, groups = world()
    for name in ids[:8].tolist():
        del labels[name]
    r = evaluate(ids, x, labels, groups, replicates=0).results
    assert r["without_label"] == 8 and r["utterances"] == 152


def test_imbalance_is_a_choice():
    ids, x, labels, groups = world(speakers=12, each=40, strength=0.6)
    kept = [i for i, n in enumerate(ids.tolist()) if labels[n] != "sad" or i % 3 == 0]
    fair = evaluate(ids[kept], x[kept], labels, groups, replicates=0).results
    plain = evaluate(ids[kept], x[kept], labels, groups, balanced=False, replicates=0).results
    sad = fair["labels"].index("sad")
    recall = [
        np.array(r["confusion"])[sad, sad] / np.array(r["confusion"])[sad].sum()
        for r in (fair, plain)
    ]
    assert recall[0] > recall[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": {}}, "no embedding has a label"),
        ({"groups": {}}, "160 utterances have no group"),
        ({"folds": 11}, "11 folds of 10 groups"),
        ({"folds": {"u0000": "a"}}, "have no fold"),
        ({"classifier": "forest"}, "no classifier 'forest'"),
    ],
)
def test_mistakes_are_named(change, said):
    ids, x, labels, groups = world()
    options = {"labels": labels, "groups": groups} | change
    with pytest.raises(UserError, match=said):
        evaluate(ids, x, **options)


def test_one_class_is_refused():
    ids, x, labels, groups = world()
    with pytest.raises(UserError, match="at least two classes"):
        evaluate(ids, x, dict.fromkeys(labels, "calm"), groups)


def test_a_class_that_one_fold_alone_has_is_refused_where_one_is_left():
    """Fold a has both classes, fold b one: a cannot be tested."""
    x = np.random.default_rng(0).normal(size=(8, 3))
    ids = [f"u{i}" for i in range(8)]
    labels = {name: "x" if i in (0, 1) else "y" for i, name in enumerate(ids)}
    folds = {name: "a" if i < 4 else "b" for i, name in enumerate(ids)}
    groups = {name: f"s{i // 2}" for i, name in enumerate(ids)}
    with pytest.raises(UserError, match="outside fold 'a' all labels are 'y'"):
        evaluate(ids, x, labels, groups, folds=folds)
    assert evaluate(ids, x, labels, groups, folds=folds, test_folds=["b"]).results["tested"] == [
        "b"
    ]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(number):
    ids, x, labels, groups = world()
    x[3, 1] = number
    with pytest.raises(UserError, match="1 embeddings are not finite, first 'u0003'"):
        evaluate(ids, x, labels, groups)


def test_the_command_writes_what_others_read(tmp_path, capsys):
    ids, x, labels, groups = world()
    np.savez(tmp_path / "e.npz", ids=ids, embeddings=x)
    for name, table in (("utt2emotion", labels), ("utt2spk", groups)):
        write_table(tmp_path / name, table)
    words = [
        "evaluate",
        "classification",
        str(tmp_path / "e.npz"),
        "--labels",
        str(tmp_path / "utt2emotion"),
    ]
    words += ["--groups", str(tmp_path), "--replicates", "50", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "macro_f1" in shown and "F1 angry" in shown and "majority class" in shown
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"micro_f1", "macro_f1", "uar", "micro_f1_interval", "folds"} <= set(results)
    assert len((tmp_path / "out" / "predictions").read_text().splitlines()) == 160
    written = str(tmp_path / "out" / "utt2fold")
    again = [*words[:-1], str(tmp_path / "again"), "--folds", written, "--class-weight", "none"]
    assert main(again) == 0  # the folds of one run serve another
    capsys.readouterr()
    other = json.loads((tmp_path / "again" / "results.json").read_text())
    assert other["folds"] == results["folds"] and results["balanced"] and not other["balanced"]
    assert (tmp_path / "out" / "confusion.png").stat().st_size > 3000
    assert main([*words, "--folds", "99"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("dim", [8, 150])  # fewer and more dimensions than rows
def test_in_the_space_of_the_rows_a_linear_classifier_is_the_same(dim):
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 3
    x = rng.standard_normal((60, dim)) + 0.5 * rng.standard_normal((3, dim))[truth]
    new = rng.standard_normal((20, dim))
    space = RowSpace().fit(x)
    assert space.transform(x).shape == (60, min(60, dim))
    np.testing.assert_allclose(space.transform(x) @ space.transform(x).T, x @ x.T, atol=1e-10)
    plain = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(x, truth)
    inside = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(space.transform(x), truth)
    np.testing.assert_allclose(
        inside.predict_proba(space.transform(new)), plain.predict_proba(new), atol=1e-6
    )


def test_results_are_plain_numbers(tmp_path):
    run = evaluate(*world(), replicates=0)
    path = classify.write_results(tmp_path, run)
    assert json.loads(path.read_text())["uar"] == run.results["uar"]


def partitions(groups):
    """Official partitions as a corpus has them: whole speakers to train, development and test."""
    part = {
        f"s{i}": name for i, name in enumerate(["train"] * 5 + ["development"] * 2 + ["test"] * 3)
    }
    return {name: part[group] for name, group in groups.items()}


def test_official_partitions_are_trained_and_tested_as_named():
    ids, x, labels, groups = world()
    run = evaluate(
        ids, x, labels, groups, folds=partitions(groups), test_folds=["test"], replicates=20
    )
    assert {groups[name] for name in run.ids.tolist()} == {"s7", "s8", "s9"}
    assert run.results["tested"] == ["test"] and len(run.results["macro_f1_folds"]) == 1
    assert run.results["macro_f1_folds_interval"] is None
    far = x.copy()
    far[[groups[name] == "s9" for name in ids.tolist()]] = (
        np.nan
    )  # what is tested is not trained on
    kept = [groups[name] != "s9" for name in ids.tolist()]
    alone = evaluate(
        ids[kept], far[kept], labels, groups, folds=partitions(groups), test_folds=["test"]
    )
    assert alone.results["chosen"] == run.results["chosen"]
    same = np.isin(run.ids, alone.ids)
    assert run.predicted[same].tolist() == alone.predicted.tolist()


def test_a_speaker_of_the_test_partition_smuggled_into_training_is_refused():
    ids, x, labels, groups = world()
    folds = partitions(groups)
    folds[next(name for name, group in groups.items() if group == "s9")] = "train"
    with pytest.raises(UserError, match="group s9 is in folds test, train"):
        evaluate(ids, x, labels, groups, folds=folds, test_folds=["test"])


@pytest.mark.parametrize(
    ("tested", "said"),
    [(["dev"], "no fold 'dev'"), (["test", "train", "development"], "none is left")],
)
def test_folds_to_test_must_exist_and_leave_some_to_train_on(tested, said):
    ids, x, labels, groups = world()
    with pytest.raises(UserError, match=said):
        evaluate(ids, x, labels, groups, folds=partitions(groups), test_folds=tested)


def test_the_interval_over_folds_is_students():
    from scipy.stats import ttest_1samp

    r = evaluate(*world(), replicates=0).results
    interval = ttest_1samp(r["uar_folds"], 0).confidence_interval()
    assert r["uar_folds_interval"] == pytest.approx([interval.low, interval.high])


def test_the_gain_over_another_embedding_is_paired_on_the_same_folds(tmp_path, capsys):
    ids, x, labels, groups = world()
    noise = np.random.default_rng(5).normal(size=x.shape).astype("f4")
    run = evaluate(ids, x, labels, groups, replicates=200)
    options = {"labels": labels, "groups": groups, "replicates": 200}
    turn = np.random.default_rng(1).permutation(len(ids))
    same = comparing.compare_embeddings(run, ids[turn], x[turn], **options)
    assert same["uar_gain"] == 0 and same["uar_gain_interval"] == [0, 0]
    other = comparing.compare_embeddings(run, ids, noise, **options)
    low, high = other["uar_gain_interval"]
    assert 0.3 < low < other["uar_gain"] < high
    assert other["uar"] == pytest.approx(run.results["uar"] - other["uar_gain"])
    with pytest.raises(UserError, match="150 utterances of the run are missing, such as .u"):
        comparing.compare_embeddings(run, ids[:10], x[:10], **options)


def test_the_command_shows_what_is_beside(tmp_path, capsys):
    ids, x, labels, groups = world()
    np.savez(tmp_path / "e.npz", ids=ids, embeddings=x)
    np.savez(tmp_path / "u.npz", ids=ids, embeddings=x[:, :1])
    for name, table in (("utt2emotion", labels), ("utt2spk", groups)):
        write_table(tmp_path / name, table)
    words = [
        "evaluate",
        "classification",
        str(tmp_path / "e.npz"),
        "--labels",
        str(tmp_path / "utt2emotion"),
    ]
    words += [
        "--groups",
        str(tmp_path),
        "--replicates",
        "50",
        "--out",
        str(tmp_path / "out"),
        "--beside",
    ]
    assert main([*words, f"untrained={tmp_path / 'u.npz'}"]) == 0
    assert "beside untrained: macro_f1" in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "out/results.json").read_text())["beside"]["untrained"][
            "macro_f1_gain"
        ]
        > 0
    )
    first = json.loads((tmp_path / "out/results.json").read_text())
    (tmp_path / "out").rename(tmp_path / "first")
    assert main([*words, f"before={tmp_path / 'first'}"]) == 0  # the predictions of another run
    again = json.loads((tmp_path / "out/results.json").read_text())["beside"]["before"]
    assert again["macro_f1_gain"] == 0 and again["macro_f1"] == first["macro_f1"]
    capsys.readouterr()
    assert main([*words, "untrained"]) == 2
    assert "give NAME=FILE" in capsys.readouterr().err


@pytest.mark.parametrize("shrinkage", [0.9, 0.1, 0.01])
@pytest.mark.parametrize("dim", [30, 300])  # fewer and more dimensions than rows
def test_lda_is_scikit_learns(dim, shrinkage):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from speechssl.evaluation.classification.classifiers import ShrunkLDA

    rng = np.random.default_rng(0)
    truth = np.array(list("abc"))[rng.choice(3, 120, p=[0.6, 0.3, 0.1])]
    means = {name: rng.normal(size=dim) for name in "abc"}
    x = np.stack([means[name] for name in truth]) + 2 * rng.normal(size=(120, dim))
    space = RowSpace().fit(x)
    ours = ShrunkLDA(shrinkage, dimensions=dim).fit(space.transform(x), truth)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, truth)
    weights = ours.weights if space.basis_ is None else space.basis_ @ ours.weights
    np.testing.assert_allclose(weights.T, theirs.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.offset, theirs.intercept_, rtol=1e-6)
    assert (ours.predict(space.transform(x)) == theirs.predict(x)).all()
