"""BatchNorm over processes, and devices that are not there.

Several processes: train/test_loop.py and contracts/test_joined_batch.py.
"""

import copy

import pytest
import torch
import torch.distributed as dist
from builders import ENCODERS
from torch import nn

from speechssl import distributed, parts
from speechssl.distributed import (
    CrossProcessBatchNorm,
    World,
    mean_over_ranks,
    start,
    stop,
    sum_over_ranks,
    synchronise_batchnorm,
)
from speechssl.errors import UserError

TWO = World(0, 2, torch.device("cpu"))


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(32, 5), (8, 5, 7), (4, 5, 3, 6)])
def test_alone_it_is_batchnorm(group, shape):
    torch.manual_seed(0)
    ordinary = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](
        5, eps=1e-3, momentum=0.2
    )
    nn.init.normal_(ordinary.weight)
    nn.init.normal_(ordinary.bias)
    ours = synchronise_batchnorm(nn.Sequential(copy.deepcopy(ordinary)), TWO)[0]
    assert isinstance(ours, CrossProcessBatchNorm)
    x = (3 * torch.randn(shape) + 100).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(shape)
    for _ in range(2):
        (ours(x) * weights).sum().backward()
        (ordinary(y) * weights).sum().backward()
    torch.testing.assert_close(ours(x), ordinary(y), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(x.grad, y.grad, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours.weight.grad, ordinary.weight.grad, atol=1e-3, rtol=1e-3)
    assert ours.state_dict().keys() == ordinary.state_dict().keys()
    for key, value in ordinary.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.eval()(x), ordinary.eval()(y), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_norm_of_every_encoder_is_converted_and_none_is_passed_over(group, name):
    torch.manual_seed(0)
    encoder = parts.build("encoders", ENCODERS.get(name, name), 24).train()
    twin = synchronise_batchnorm(copy.deepcopy(encoder), TWO)
    norms = [m for m in twin.modules() if isinstance(m, CrossProcessBatchNorm)]
    assert norms and not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in twin.modules())
    called = set()
    for norm in norms:
        norm.register_forward_hook(lambda module, *_: called.add(id(module)))
    x = torch.randn(6, 200, 24)
    torch.testing.assert_close(twin(x), encoder(x), atol=1e-3, rtol=1e-3)
    assert len(called) == len(norms)


def test_frozen_parameters_stay_frozen():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm2d(3))).requires_grad_(False)
    assert not any(p.requires_grad for p in synchronise_batchnorm(net, TWO).parameters())


def test_one_process_changes_nothing():
    net = nn.Sequential(nn.BatchNorm1d(3))
    assert synchronise_batchnorm(net, World(0, 1, torch.device("cpu"))) is net
    assert type(net[0]) is nn.BatchNorm1d


def test_a_device_that_is_not_here_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert start("auto").device.type == "cpu" and start("cpu").first
    for device in ("cuda", "cuda:7", "no-such-device"):
        with pytest.raises(UserError, match="device") as error:
            start(device)
        assert "\n" not in str(error.value)
    stop()  # without a group this does nothing


def test_sums_over_processes_leave_their_argument_alone(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.mul_(2))  # two processes that hold the same
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    total = sum_over_ranks(x)
    mean = mean_over_ranks(x)
    assert total.tolist() == [2, 6] and mean.tolist() == [1, 3] and x.tolist() == [1, 3]
    assert not total.requires_grad and not mean.requires_grad
