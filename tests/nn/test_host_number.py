"""A number that is read from the device once, and again after each write."""

import copy

import pytest
import torch
from torch import nn

from speechssl.nn.host_number import host_number


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.tensor(3))


def test_it_is_read_again_only_after_a_write(monkeypatch):
    counter = Counter()
    asked = []
    ask = torch.Tensor.__int__
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: asked.append(1) or ask(self))
    assert [host_number(counter.count) for _ in range(3)] == [3, 3, 3]
    assert len(asked) == 1
    counter.count.fill_(5)
    assert [host_number(counter.count) for _ in range(2)] == [5, 5]
    assert len(asked) == 2


@pytest.mark.parametrize("writes", range(4))
def test_a_copy_and_a_loaded_state_have_their_own_numbers(writes):
    counter = Counter()
    counter.count.add_(1)
    assert host_number(counter.count) == 4
    twin = copy.deepcopy(counter)
    for _ in range(writes):  # as many writes as the original has seen, among other numbers
        twin.count.add_(10)
    assert host_number(twin.count) == 4 + 10 * writes
    assert host_number(counter.count) == 4
    counter.load_state_dict(twin.state_dict())
    assert host_number(counter.count) == 4 + 10 * writes
    assert host_number(counter.to(torch.float64).count) == 4 + 10 * writes
