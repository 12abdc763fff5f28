"""Two processes with half a batch each get the gradients of one process with the whole (methods/README.md
0).
"""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from _methods import make, trainable, views
from builders import DEVICE

from speechssl import parts
from speechssl.distributed import World, synchronise_batchnorm
from speechssl.interfaces import Progress

NAMES = parts.names("methods")
STEPS = (Progress(0, 100, 5), Progress(1, 100, 5), Progress(60, 100, 5))
SHARE = 4


def halves(rank):
    now = slice(rank * SHARE, (rank + 1) * SHARE)
    return [g._replace(features=g.features[:, now], ids=g.ids[now]) for g in views(batch=2 * SHARE)]


def run(method, batch, average):
    """Losses, the last step's gradients and the state after three steps of plain SGD."""
    optimizer = torch.optim.SGD(trainable(method), lr=0.1)
    losses = []
    for progress in STEPS:
        optimizer.zero_grad()
        output = method(batch, progress)
        output.loss.backward()
        loss = output.loss.detach().clone()
        for tensor in [loss, *(p.grad for p in trainable(method) if p.grad is not None)]:
            average(tensor)
        method.after_backward(progress)
        optimizer.step()
        method.after_step(progress)
        losses.append(loss)
    gradients = {k: p.grad for k, p in method.named_parameters() if p.grad is not None}
    return torch.stack(losses), gradients, method.state_dict()


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

    def average(tensor):
        dist.all_reduce(tensor)
        tensor /= 2

    found = {}
    for name in NAMES:
        method = synchronise_batchnorm(make(name), World(rank, 2, torch.device("cpu")))
        found[name] = run(method, halves(rank), average)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(DEVICE.type != "cpu", reason="gloo computes on CPUs")
def test_two_processes_are_one_with_the_joined_batch(tmp_path):
    mp.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    wrong = []
    for name in NAMES:
        losses, gradients, state = run(make(name), views(batch=2 * SHARE), lambda tensor: tensor)
        for got in (first[name], second[name]):
            try:
                torch.testing.assert_close(got[0], losses, atol=1e-4, rtol=1e-3)
                for key, gradient in gradients.items():
                    torch.testing.assert_close(
                        got[1][key],
                        gradient,
                        atol=1e-3,
                        rtol=1e-2,
                        msg=lambda m, k=key: f"{k}: {m}",
                    )
                for key, value in state.items():
                    torch.testing.assert_close(
                        got[2][key], value, atol=2e-3, rtol=2e-2, msg=lambda m, k=key: f"{k}: {m}"
                    )
            except AssertionError as error:
                wrong.append(f"{name}: {error}")
                break
    assert not wrong, "\n\n".join(wrong)
