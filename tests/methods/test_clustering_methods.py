"""SwAV, DeepCluster, MoCo's queue and C3's stages: what they keep, and when it moves.

methods/README.md 6 and 7.
"""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from speechssl.errors import UserError
from speechssl.interfaces import Progress

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))
from _methods import make, views


def at(step, steps=100, per_epoch=5):
    return Progress(step, steps, per_epoch)


def test_swav_with_constant_scores_has_ln_k():
    method = make("swav")
    with torch.no_grad():
        method.prototypes.copy_(method.prototypes[:1].expand_as(method.prototypes))
    assert float(method(views(), at(50)).loss.detach()) == pytest.approx(math.log(8), abs=1e-5)


def test_swavs_prototypes_have_unit_length_and_stand_still_at_the_start():
    method = make("swav", freeze_prototypes=0.1)
    with torch.no_grad():
        method.prototypes.mul_(3)
    method(views(), at(0)).loss.backward()
    torch.testing.assert_close(method.prototypes.detach().norm(dim=1), torch.ones(8))
    method.after_backward(at(0))
    assert method.prototypes.grad is None
    method(views(), at(50)).loss.backward()
    method.after_backward(at(50))
    assert method.prototypes.grad is not None


def test_swavs_queue_joins_once_it_is_full_and_keeps_the_newest():
    method = make("swav", queue_size=16, queue_start=0.2)
    method(views(), at(0))
    assert int(method.filled) == 0
    method(views(), at(20))
    newest = method.queue[:, :8].clone()
    assert int(method.filled) == 8
    method(views(seed=1), at(21))
    assert int(method.filled) == 16 and torch.equal(method.queue[:, 8:], newest)
    full = method(views(), at(22)).loss
    assert full.isfinite()


def test_mocos_queue_is_a_ring_of_the_newest_keys():
    method = make("moco", queue_size=24)
    before = method.queue.clone()
    method(views(), at(0))  # two long views of eight utterances
    assert int(method.place) == 16 and torch.equal(method.queue[16:], before[16:])
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(24))
    method(views(seed=1), at(1))
    assert int(method.place) == 8 and not torch.equal(method.queue[16:], before[16:])


def test_deepclusters_assignments_are_the_nearest_centroids_of_the_memory():
    method = make("deepcluster")
    assert float(method(views(), at(0)).loss.detach()) == 0.0
    method(views(), at(1))
    assert int(method.clustered) == 1
    for head in range(2):
        memory = method.memory.values[head % 2]
        # the memory has been written again since, by the same weights in training mode
        torch.testing.assert_close(
            method.assigned[head], (memory @ method.prototypes[head].T).argmax(1)
        )
    torch.testing.assert_close(method.prototypes.norm(dim=-1), torch.ones(2, 4))
    assert not any("prototypes" in key for key, _ in method.named_parameters())


def test_deepcluster_clusters_once_an_epoch():
    method = make("deepcluster")
    times = []
    for step in range(14):
        method(views(), at(step))
        times.append(int(method.clustered))
    assert sorted(set(times)) == [-1, 1, 6, 11]


def test_methods_with_a_memory_need_to_know_the_utterances():
    batch = [g._replace(ids=None) for g in views()]
    with pytest.raises(UserError, match="which utterances"):
        make("deepcluster")(batch, at(0))


def test_c3_goes_over_to_dino_from_the_moving_average():
    method = make("c3_dino", switch=0.5)
    assert method.encoder is method.moco.encoder
    assert list(method.networks()) == ["student", "teacher"]
    method(views(), at(49)).loss.backward()
    assert int(method.switched) == -1
    average = {k: v.clone() for k, v in method.moco.teacher.encoder.state_dict().items()}
    method.eval()  # BatchNorm statistics stay what the switch made them
    method(views(), at(50))
    assert int(method.switched) == 50
    for network in (method.dino.student, method.dino.teacher):
        for key, value in network.encoder.state_dict().items():
            assert torch.equal(value, average[key]), key
    assert method.encoder is method.dino.encoder
    networks = method.networks()
    assert networks["student"] is method.dino.student.encoder
    assert networks["teacher"] is method.dino.teacher.encoder
    assert networks["moco.teacher"] is method.moco.encoder
    assert method.dino_progress(at(75)).fraction == pytest.approx(0.5)


def test_c3_corrects_only_after_its_warm_up():
    method = make("c3_dino", switch=0.5, warmup=0.5, threshold=-1.0)
    method(views(), at(0))
    assert not method.moco.corrected
    output = method(views(), at(30))
    assert method.moco.corrected
    # every key is a collision at this threshold: no negative is left, and MoCo's part is 0
    assert float(output.scalars["moco"]) == pytest.approx(0.0, abs=1e-6)


def test_dimcl_mixes_the_base_loss_and_its_own():
    plain = make("byol")
    mixed = make("dimcl", weight=0.25)
    base = plain(views(), at(0)).loss
    output = mixed(views(), at(0))
    torch.testing.assert_close(output.scalars["base"], base.detach())
    torch.testing.assert_close(
        output.loss.detach(), 0.75 * 2 * base.detach() + 0.25 * output.scalars["dimcl"]
    )


@pytest.mark.parametrize(
    "base", ["dino", "simsiam", "simclr", "moco", "swav", "vicreg", "unigrad", "c3_dino"]
)
def test_dimcl_goes_with_any_method(base):
    from _methods import SMALL

    method = make("dimcl", base={"name": base, **SMALL[base]})
    output = method(views(), at(0))
    output.loss.backward()
    assert output.loss.isfinite() and F.relu(output.scalars["dimcl"]) > 0


def test_dimcl_refuses_a_base_of_one_view():
    with pytest.raises(UserError, match="dimcl: base must compare two views"):
        make("dimcl", base={"name": "aam_softmax"})
