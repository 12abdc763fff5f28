"""Data as a stream: what each epoch knows, and that no batch has an utterance twice (methods/README.md
4.4).
"""

import numpy as np
import pytest

from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.manifest import Utterance
from speechssl.data.order import DataOrder, StreamOrder
from speechssl.errors import UserError

COUNT, BATCH = 43, 4
STEPS = COUNT // BATCH


def order(kind, epochs=5, share=0.4, seed=0):
    return StreamOrder(COUNT, BATCH, seed, DataOrder(kind, epochs * STEPS, share))


def visited(stream, epochs=5):
    return [set(stream.rows(epoch).tolist()) for epoch in range(epochs)]


@pytest.mark.parametrize("kind", ["single_pass", "accumulate", "hybrid"])
def test_every_epoch_has_as_many_batches_as_ever_and_none_has_an_utterance_twice(kind):
    for epochs in (1, 3, 5, 25):
        stream = order(kind, epochs)
        for epoch in range(epochs + 1):
            rows = stream.rows(epoch)
            assert rows.shape == (STEPS * BATCH,)
            for batch in rows.reshape(STEPS, BATCH):
                assert len(set(batch.tolist())) == BATCH


def test_a_single_pass_visits_each_utterance_in_one_epoch_only():
    stream = order("single_pass")
    pieces = [set(stream.known(epoch).tolist()) for epoch in range(5)]
    assert sorted(row for piece in pieces for row in piece) == list(range(COUNT))
    assert {len(piece) for piece in pieces} == {8, 9}
    for seen, piece in zip(visited(stream), pieces, strict=True):
        assert seen == piece  # all of it is used: what is cut off differs from round to round


def test_accumulation_grows_to_all_the_data():
    stream = order("accumulate")
    known = [set(stream.known(epoch).tolist()) for epoch in range(5)]
    assert [len(rows) for rows in known] == [8, 17, 25, 34, 43]
    assert all(one < two for one, two in zip(known, known[1:], strict=False))
    assert all(rows <= k for rows, k in zip(visited(stream), known, strict=True))


def test_hybrid_is_a_single_pass_then_all_the_data():
    single, hybrid = order("single_pass"), order("hybrid", share=0.4)
    for epoch in (0, 1):
        assert np.array_equal(hybrid.rows(epoch), single.rows(epoch))
    for epoch in (2, 3, 4):
        assert set(hybrid.known(epoch).tolist()) == set(range(COUNT))
    assert not np.array_equal(hybrid.rows(2), hybrid.rows(3))


def test_pieces_are_never_smaller_than_a_batch():
    stream = order("single_pass", epochs=25)
    pieces = [tuple(stream.known(epoch).tolist()) for epoch in range(25)]
    assert len(set(pieces)) == STEPS and min(map(len, pieces)) >= BATCH
    assert sorted(pieces, key=pieces.index) == pieces  # a piece does not come back


def test_rows_are_a_function_of_seed_and_epoch():
    one, two = order("hybrid"), order("hybrid")
    late = two.rows(4)
    assert np.array_equal(late, [one.rows(epoch) for epoch in range(5)][4])
    assert not np.array_equal(order("hybrid", seed=1).rows(4), late)


def test_two_processes_share_the_batches_of_one():
    utterances = [Utterance(f"u{n}", f"/nowhere/{n}", 0.0, None, 2.0) for n in range(COUNT)]
    how = DataOrder("single_pass", 5 * STEPS)
    whole = CropBatches(utterances, [CropSpec(2, 0.5)], batch_size=4, order=how)
    halves = [
        CropBatches(utterances, [CropSpec(2, 0.5)], batch_size=2, rank=r, world=2, order=how)
        for r in (0, 1)
    ]
    for epoch in range(5):
        assert np.array_equal(whole.order.rows(epoch), halves[0].order.rows(epoch))
        assert np.array_equal(halves[0].order.rows(epoch), halves[1].order.rows(epoch))


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match=r"data.single_pass_share: 1; it must be between 0 and 1"):
        order("hybrid", share=1.0)
    utterances = [Utterance(f"u{n}", f"/nowhere/{n}", 0.0, None, 2.0) for n in range(COUNT)]
    with pytest.raises(UserError, match=r"data.order=hybrid does not go with .*weight_by_duration"):
        CropBatches(
            utterances,
            [CropSpec(2, 0.5)],
            order=DataOrder("hybrid", 50),
            weight_by_duration=True,
        )
