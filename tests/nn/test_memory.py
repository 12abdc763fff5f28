"""The memory of the last projections."""

import pytest
import torch
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.nn.memory import Memory


def test_a_batch_is_stored_normalised_at_its_utterances() -> None:
    memory = Memory(views=2, utterances=5, dim=3)
    z = torch.randn(3, 2, 3)  # three views, of which the memory keeps two
    assert memory.update(torch.tensor([4, 1]), z).tolist() == [4, 1]
    torch.testing.assert_close(memory.values[:, [4, 1]], F.normalize(z[:2], dim=-1))
    assert memory.seen.tolist() == [False, True, False, False, True]
    assert (memory.values[:, [0, 2, 3]] == 0).all()


def test_without_ids_it_says_so() -> None:
    with pytest.raises(UserError, match="Views.ids"):
        Memory(1, 2, 3).update(None, torch.randn(1, 2, 3))
