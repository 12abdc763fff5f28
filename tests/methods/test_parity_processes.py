"""RDINO's and SDPN's extra terms over two processes are those of one with the joined batch."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_parity import SDPN, crops, dino

from speechssl.interfaces import Progress, Views

RDINO = {"regularised": 8, "regulariser_start": 0.2, "regulariser_end": 0.2}
# KoLeo is each process's own, as in the programs, and BatchNorm is not synchronised here.
SETTINGS = {
    "sdpn": {**SDPN, "koleo_weight": 0.0, "batchnorm": False},
    "rdino": {**RDINO, "batchnorm": False},
}
HALF = 3


def loss_and_gradients(name, rows):
    method = dino(**SETTINGS[name])
    first = "teacher" if name == "sdpn" else "both"
    long = crops(1 if name == "sdpn" else 2, 2 * HALF, False)[:, rows].contiguous()
    short = crops(4, 2 * HALF, False, seed=2)[:, rows].contiguous()
    loss = method([Views(long, first), Views(short, "student")], Progress(50, 100, 10)).loss
    loss.backward()
    return loss.detach(), [p.grad for p in method.student.parameters() if p.grad is not None]


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for name in SETTINGS:
        loss, gradients = loss_and_gradients(name, slice(rank * HALF, (rank + 1) * HALF))
        for tensor in (loss, *gradients):  # as DistributedDataParallel averages
            dist.all_reduce(tensor)
            tensor /= 2
        found[name] = (loss, gradients)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one_with_the_joined_batch(tmp_path):
    mp.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    for name in SETTINGS:
        loss, gradients = loss_and_gradients(name, slice(None))
        for rank in (0, 1):
            got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)[name]
            torch.testing.assert_close(got[0], loss, atol=1e-10, rtol=1e-10)
            for ours, whole in zip(got[1], gradients, strict=True):
                torch.testing.assert_close(ours, whole, atol=1e-10, rtol=1e-8)
