"""All pairs and nearest neighbours: what a loop over pairs gives, whatever the tiles."""

import numpy as np
import pytest

from speechssl.cli import main
from speechssl.errors import UserError
from speechssl.evaluation.verification import scoring
from speechssl.evaluation.verification.search import search


@pytest.fixture(autouse=True, params=[(512, 8192), (3, 4), "faiss"])
def tiles(request, monkeypatch):
    if request.param == "faiss":
        pytest.importorskip("faiss")
        monkeypatch.setattr(scoring, "_FAISS_ROWS", 3)
        return
    monkeypatch.setattr(scoring, "faiss_if_installed", lambda: None)
    monkeypatch.setattr(scoring, "TILE", request.param)
    monkeypatch.setattr("speechssl.evaluation.verification.search.TILE", request.param)


def made(count, seed=0, name="u"):
    matrix = np.random.default_rng(seed).normal(size=(count, 5)).astype("f4")
    return np.array([f"{name}{i}" for i in range(count)]), matrix


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_all_pairs_are_each_pair_once():
    ids, x = made(11)
    found = {(a, b): value for a, b, value in search((ids, x))}
    assert len(found) == 11 * 10 / 2
    for (a, b), value in found.items():
        assert int(a[1:]) < int(b[1:])
        assert value == pytest.approx(cosine(x[int(a[1:])], x[int(b[1:])]), abs=1e-6)


def test_all_pairs_against_others_are_all():
    (ids, x), (others, y) = made(5), made(9, 1, "v")
    found = {(a, b): value for a, b, value in search((ids, x), (others, y))}
    assert len(found) == 45
    assert found["u2", "v7"] == pytest.approx(cosine(x[2], y[7]), abs=1e-6)


def test_the_nearest_are_those_of_a_sort_and_never_oneself():
    ids, x = made(20)
    cosines = np.array([[cosine(a, b) for b in x] for a in x])
    np.fill_diagonal(cosines, -2)
    found = list(search((ids, x), top=3))
    assert len(found) == 60
    for row in range(20):
        best = np.argsort(-cosines[row])[:3]
        assert [b for a, b, _ in found if a == ids[row]] == [f"u{i}" for i in best]
    assert len(list(search((ids, x), top=100))) == 20 * 19


def test_training_data_move_both_sides():
    (ids, x), (others, y) = made(4), made(6, 1, "v")
    training = made(50, 2, "t")
    centre = training[1].mean(0)
    found = {(a, b): value for a, b, value in search((ids, x), (others, y), mean=training)}
    assert found["u0", "v5"] == pytest.approx(cosine(x[0] - centre, y[5] - centre), abs=1e-5)


def test_mistakes_are_one_line():
    ids, x = made(4)
    with pytest.raises(UserError, match="use one model"):
        list(search((ids, x), (ids, x[:, :3])))
    with pytest.raises(UserError, match="at least 1"):
        list(search((ids, x), top=0))
    with pytest.raises(UserError, match="holds 4 test embeddings"):
        list(search((ids, x), mean=(ids, x)))


def test_the_command(tmp_path, capsys):
    ids, x = made(6)
    np.savez(tmp_path / "e.npz", ids=ids, embeddings=x)
    assert main(["score", str(tmp_path / "e.npz"), "--nearest", "2", "--out", "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[0].split()[0] == "u0"
    assert (
        main(["score", str(tmp_path / "e.npz"), "--all-pairs", "--out", str(tmp_path / "pairs")])
        == 0
    )
    assert len((tmp_path / "pairs").read_text().splitlines()) == 15
    assert (
        main(["score", str(tmp_path / "e.npz"), "--nearest", "2", "--plda", "x", "--out", "-"]) == 2
    )
    assert "--plda needs --trials" in capsys.readouterr().err


def test_of_equal_embeddings_oneself_is_never_a_neighbour():
    ids, x = made(1)
    same = np.repeat(x, 9, axis=0)
    found = list(search((np.array([f"u{i}" for i in range(9)]), same), top=2))
    assert len(found) == 18 and all(a != b for a, b, _ in found)
    assert all(value == pytest.approx(1) for *_, value in found)
