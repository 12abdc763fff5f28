"""Whole steps of SDPN, RDINO, DINOv2, guided stop-gradient and Cho et al. 2022, written anew.

Each formula is written from the paper's notation (methods/README.md 1.2 and 3), in float64, and
compared in value and in gradient: at batches of 2 and more, on constant input, at the first, a
middle and the last step of a run.
"""

import copy
import math

import pytest
import torch
from torch import nn

from speechssl import parts
from speechssl.interfaces import Encoder, Progress, Views
from speechssl.losses.guided_stop_gradient import derangement
from speechssl.methods.byol import Byol
from speechssl.methods.dino import Dino
from speechssl.methods.simsiam import SimSiam
from speechssl.train.optimizers import (
    OptimizerSettings,
    build_optimizer,
    clip_gradients,
    clipped_parameters,
    schedule,
)

BANDS = 6
PROTOTYPES = 16
LAYER = 8  # of RDINO
STEPS = [Progress(0, 100, 10), Progress(50, 100, 10), Progress(99, 100, 10)]
BATCHES = [(2, False), (7, False), (5, True)]  # size, constant input


class Toy(Encoder):
    embedding_dim = 5

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(BANDS, 9), nn.Tanh(), nn.Linear(9, self.embedding_dim))

    def forward(self, features, lengths=None):
        return self.net(features.mean(1))


def dino(**settings):
    torch.manual_seed(0)
    head = {"prototypes": PROTOTYPES, "layers": 2, "hidden": 12, "bottleneck": 4, "batchnorm": True}
    method = Dino(Toy(), **{**head, **settings}).double().train()
    with torch.no_grad():
        # Biases, or the BatchNorms would turn constant input into zeros, which have no direction;
        # and a teacher that is not the student any more.
        for parameter in method.student.head.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for old, new in zip(method.teacher.parameters(), method.student.parameters(), strict=True):
            old.copy_(new + 0.1 * torch.randn_like(new))
        method.teacher.head.weight_g.fill_(1.0)  # the gain is frozen
    return method


def crops(count, batch, constant, seed=1):
    if constant:
        return torch.ones(count, batch, 4, BANDS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, batch, 4, BANDS, generator=generator, dtype=torch.float64)


def unit(x):
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def network(net, views, prototypes=None):
    """Embeddings (V, B, D), the MLP's output (V B, R) and cosines (V B, K) of views (V, B, F, M)."""
    embeddings = net.encoder(views.flatten(0, 1))
    layer = net.head.mlp(net.head.input_norm(embeddings))
    if prototypes is None:
        prototypes = net.head.weight_v
    cosines = unit(net.head.bottleneck(layer)) @ unit(prototypes).T
    return embeddings.view(*views.shape[:2], -1), layer, cosines


def nearest_neighbour_term(x):
    """Minus the mean logarithm of the distance to the nearest other sample, at unit length."""
    x = unit(x)
    total = 0.0
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        nearest = max(others, key=lambda j: float(x[i] @ x[j]))
        total = total - torch.log(torch.linalg.vector_norm(x[i] - x[nearest]) + 1e-8)
    return total / len(x)


def sinkhorn_of_probabilities(r, rounds=3):
    """SwAV's algorithm on probabilities r (N, K): columns to 1 / K, rows to 1 / N, times N."""
    q = r.T / r.sum()
    for _ in range(rounds):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def sdpn(method, long, short):
    """SDPN's loss: one long crop to the teacher, the short ones to the student."""
    embeddings, _, cosines = network(method.student, short)
    p = (cosines / 0.1).softmax(1)
    with torch.no_grad():
        shared = method.student.head.weight_v
        r = (network(method.teacher, long, shared)[2] / 0.1).softmax(1) ** (1 / 0.25)
        q = sinkhorn_of_probabilities(r / r.sum(1, keepdim=True)).repeat(len(short), 1)
    prediction = -(q * p.log()).sum(1).mean()
    mean = p.mean(0)
    me_max = (mean * mean.log()).sum()  # the program adds ln K, a constant
    spread = sum(nearest_neighbour_term(view) for view in embeddings)
    return prediction + me_max + 0.1 * spread


SDPN = {
    "centring": "sinkhorn",
    "sinkhorn_on": "probabilities",
    "teacher_temperature": 0.025,
    "target_prototypes": "student",
    "freeze_last_layer": 0.0,
    "prototype_decay": False,
    "prototype_clip": False,
    "prototype_lr_scale": 4.0,
    "mean_entropy_weight": 1.0,
    "koleo_weight": 0.1,
    "koleo_over": "all",
}


def sdpn_views(batch, constant, seed=1):
    long = crops(1, batch, constant, seed)
    short = crops(4, batch, constant, seed + 100)
    return [Views(long, "teacher"), Views(short, "student")]


def dino_loss(method, long, short, by_length=False):
    """DINO's loss over the pairs of different views, with the centre as it is."""
    teacher = network(method.teacher, long)[2].view(*long.shape[:2], -1)
    q = ((teacher - method.centre) / 0.04).softmax(-1).detach()
    if by_length:
        cosines = [network(method.student, views)[2] for views in (long, short)]
        logits = torch.cat(cosines).view(len(long) + len(short), long.shape[1], -1)
    else:
        logits = network_of_all(method, long, short)
    log_p = (logits / 0.1).log_softmax(-1)
    terms = []
    for u in range(len(q)):
        terms += [-(q[u] * log_p[v]).sum(-1).mean() for v in range(len(log_p)) if v != u]
    return torch.stack(terms).mean()


def network_of_all(method, long, short):
    """The student's cosines (V, B, K); its head sees all views in one batch."""
    embeddings = [method.student.encoder(views.flatten(0, 1)) for views in (long, short)]
    head = method.student.head
    layer = head.mlp(head.input_norm(torch.cat(embeddings)))
    cosines = unit(head.bottleneck(layer)) @ unit(head.weight_v).T
    return cosines.view(len(long) + len(short), long.shape[1], -1)


def rdino_regulariser(method, long, prototypes):
    """Program's form: half of each variance term, the sum of the covariances over `prototypes`."""
    student = network(method.student, long)[1]
    with torch.no_grad():
        teacher = network(method.teacher, long)[1]
    value = 0.0
    for layer in (student, teacher):
        x = layer.view(*long.shape[:2], -1).mean(0)
        x = x - x.mean(0)
        deviation = (x.square().sum(0) / (len(x) - 1) + 1e-4).sqrt()
        covariance = x.T @ x / (len(x) - 1)
        off_diagonal = covariance - torch.diag(covariance.diagonal())
        value = value + 10.0 * (1 - deviation).clamp(min=0).mean() / 2
        value = value + 1.0 * off_diagonal.square().sum() / prototypes
    return value


def same_value_and_gradients(method, loss_of_twin, batch, progress, twin=None):
    """Compare the method's loss and gradients with those of a formula on a copy of it."""
    twin = copy.deepcopy(method) if twin is None else twin
    got = method(batch, progress).loss
    want = loss_of_twin(twin)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    got.backward()
    want.backward()
    compared = 0
    for (name, ours), theirs in zip(method.named_parameters(), twin.parameters(), strict=True):
        if ours.requires_grad:
            assert (ours.grad is None) == (theirs.grad is None), name
            if ours.grad is not None:
                # On constant input a gradient that is 0 holds rounding errors of the cancelled
                # repulsion, which is 1e8 times a distance of 0.
                torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-8, rtol=1e-8)
                compared += 1
    assert compared > 3


@pytest.mark.parametrize("progress", STEPS, ids=lambda p: f"step{p.step}")
@pytest.mark.parametrize("batch, constant", BATCHES)
def test_sdpn_is_the_papers_loss(batch, constant, progress):
    views = sdpn_views(batch, constant)
    same_value_and_gradients(
        dino(**SDPN),
        lambda twin: sdpn(twin, views[0].features, views[1].features),
        views,
        progress,
    )


def test_steps_of_sdpn_leave_the_prototypes_out_of_decay_and_clipping():
    settings = OptimizerSettings(
        name="sgd", lr=0.4, warmup=0.0, min_lr=1e-5, weight_decay=0.05, clip=0.05
    )
    ours = dino(**SDPN)
    theirs = copy.deepcopy(ours)
    optimizer = build_optimizer(ours, settings)
    prototypes = theirs.student.head.weight_v
    others = [p for p in theirs.student.parameters() if p.requires_grad and p is not prototypes]
    velocity = {p: torch.zeros_like(p) for p in [*others, prototypes]}
    clipped = 0
    for number in range(4):
        views = sdpn_views(6, False, seed=number)
        progress = Progress(number, 4, 1)
        schedule(optimizer, settings, progress.fraction, 6)
        optimizer.zero_grad()
        ours(views, progress).loss.backward()
        clip_gradients(clipped_parameters(ours), settings)
        ours.after_backward(progress)
        optimizer.step()
        ours.after_step(progress)

        rate = 1e-5 + (0.4 - 1e-5) * (1 + math.cos(math.pi * number / 4)) / 2
        momentum = 1 - (1 - 0.996) * (1 + math.cos(math.pi * number / 4)) / 2
        loss = sdpn(theirs, views[0].features, views[1].features)
        gradients = torch.autograd.grad(loss, [*others, prototypes])
        with torch.no_grad():
            for p, gradient in zip([*others, prototypes], gradients, strict=True):
                if p is prototypes:
                    gradient = 4 * gradient  # summed over 4 GPUs, not averaged
                else:
                    norm = torch.linalg.vector_norm(gradient)
                    clipped += int(norm > 0.05)
                    gradient = gradient * min(1.0, 0.05 / (float(norm) + 1e-6))
                    gradient = gradient + (0.05 * p if p.ndim >= 2 else 0)
                velocity[p].mul_(0.9).add_(gradient)
                p.sub_(rate * velocity[p])
            pairs = zip(theirs.teacher.parameters(), theirs.student.parameters(), strict=True)
            for old, new in pairs:
                old.mul_(momentum).add_((1 - momentum) * new)
    assert clipped > 4  # the clipping did something
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(
            mine, other, atol=1e-10, rtol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_reproduction_of_a_temperature_that_is_ten_times_too_high():
    """Entropies of the targets of 96 random unit vectors, 1,024 prototypes (README 15.1)."""
    torch.manual_seed(0)
    queries = unit(torch.randn(96, 256, dtype=torch.float64))
    cosines = queries @ unit(torch.randn(1024, 256, dtype=torch.float64)).T
    sharpened = (cosines / 0.1).softmax(1) ** 4
    want = sinkhorn_of_probabilities(sharpened / sharpened.sum(1, keepdim=True))

    def targets(**settings):
        method = dino(prototypes=1024, centring="sinkhorn", **settings)
        return method._assign(cosines[None], settings["teacher_temperature"])[0]

    def entropy(q):
        return float(-(q * q.log()).sum(1).mean())

    before = targets(teacher_temperature=0.25)
    after = targets(teacher_temperature=0.025, sinkhorn_on="probabilities")
    assert entropy(before) == pytest.approx(6.9005, abs=1e-4)
    assert entropy(after) == pytest.approx(4.8381, abs=1e-4)
    torch.testing.assert_close(after, want, atol=1e-15, rtol=1e-9)
    logits = targets(teacher_temperature=0.025)
    assert float((logits - want).abs().max()) == pytest.approx(0.0068, abs=1e-4)


@pytest.mark.parametrize("progress", STEPS, ids=lambda p: f"step{p.step}")
@pytest.mark.parametrize("batch, constant", BATCHES)
def test_rdino_is_the_programs_loss(batch, constant, progress):
    settings = {
        "head_batches": "by_length",  # the program runs encoder and head on long, then short crops
        "regularised": LAYER,
        "covariance_weight": LAYER / PROTOTYPES,
        "regulariser_start": 0.05,
        "regulariser_end": 0.2,
        "regulariser_warmup": 0.6,
    }
    long = crops(2, batch, constant)
    short = crops(4, batch, constant, seed=2)
    weight = 0.05 + 0.15 * min(1.0, progress.fraction / 0.6)

    def loss(twin):
        regulariser = rdino_regulariser(twin, long, PROTOTYPES)
        return dino_loss(twin, long, short, by_length=True) + weight * regulariser

    same_value_and_gradients(
        dino(**settings), loss, [Views(long), Views(short, "student")], progress
    )


@pytest.mark.parametrize("progress", STEPS, ids=lambda p: f"step{p.step}")
@pytest.mark.parametrize("batch, constant", BATCHES)
def test_koleo_is_dinov2s_sum_over_the_long_crops(batch, constant, progress):
    long = crops(2, batch, constant)
    short = crops(3, batch, constant, seed=2)

    def loss(twin):
        embeddings = twin.student.encoder(long.flatten(0, 1)).view(2, batch, -1)
        spread = sum(nearest_neighbour_term(view) for view in embeddings)
        return dino_loss(twin, long, short) + 0.1 * spread

    views = [Views(long), Views(short, "student")]
    same_value_and_gradients(dino(koleo_weight=0.1), loss, views, progress)


@pytest.mark.parametrize("progress", STEPS, ids=lambda p: f"step{p.step}")
@pytest.mark.parametrize("batch, constant", BATCHES)
def test_the_founding_recipes_batch_norm_is_between_embedding_and_head(batch, constant, progress):
    method = dino(batchnorm=False, input_batchnorm=True, head_batches="by_length")
    assert isinstance(method.student.head.input_norm, nn.BatchNorm1d)
    with torch.no_grad():
        method.centre.copy_(torch.linspace(-0.3, 0.3, PROTOTYPES))
    long = crops(2, batch, constant)
    short = crops(4, batch, constant, seed=2)

    def loss(twin):
        head = twin.student.head
        normalised = []
        for views in (long, short):  # the program's batch norm ends its x-vector network
            x = twin.student.encoder(views.flatten(0, 1))
            normalised.append((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt())
        x = torch.cat(normalised)
        cosines = unit(head.mlp(x * head.input_norm.weight + head.input_norm.bias))
        log_p = (cosines @ unit(head.weight_v).T / 0.1).log_softmax(1).view(6, batch, -1)
        q = (network(twin.teacher, long)[2].view(2, batch, -1) - twin.centre) / 0.04
        q = q.softmax(-1).detach()
        pairs = [(u, v) for u in range(2) for v in range(6) if u != v]
        return sum(-(q[u] * log_p[v]).sum(-1).mean() for u, v in pairs) / len(pairs)

    # On constant input the batch norm divides rounding errors by the root of its 1e-5.
    if not constant:
        views = [Views(long), Views(short, "student")]
        same_value_and_gradients(method, loss, views, progress)
    embedding = method([Views(long), Views(short, "student")], progress).embedding
    expected = method.teacher.encoder(long.flatten(0, 1))
    torch.testing.assert_close(embedding, expected)  # before the batch norm


def test_prototypes_start_as_a_linear_layers_weights():
    torch.manual_seed(0)
    method = Dino(Toy(), prototypes=2000, bottleneck=256)
    rows = torch.linalg.vector_norm(method.student.head.weight_v.detach(), dim=1)
    assert float(rows.mean()) == pytest.approx(1 / math.sqrt(3), abs=0.005)
    assert method.student.head.weight_v.abs().max() <= 1 / 16
    assert float(method.student.head.weight_v.detach().std()) == pytest.approx(
        float(nn.Linear(256, 2000).weight.std()), rel=0.01
    )


def gsg_loss(z, targets, predictor, order):
    """The four candidate losses of each pair, and the one whose sources are nearest.

    Args:
        z, targets: (4, N, P), views 0 and 1 of item 1 and 2 and 3 of item 2.
        predictor: on one whole view, a function.
        order: (N,) the other item of each pair.
    """
    views = [z[0], z[1], z[2][order], z[3][order]]
    fixed = [targets[0], targets[1], targets[2][order], targets[3][order]]
    p = [predictor(view) for view in views]

    def cosine(a, b):
        return (unit(a) * unit(b)).sum(1)

    losses = []
    distances = []
    for a, b in ((0, 2), (0, 3), (1, 2), (1, 3)):
        other_a = 1 - a
        other_b = 5 - b
        losses.append(-0.5 * (cosine(p[a], fixed[other_a]) + cosine(p[b], fixed[other_b])))
        distances.append(torch.linalg.vector_norm(fixed[a] - fixed[b], dim=1))
    chosen = torch.stack(distances, dim=1).argmin(1)
    return torch.stack(losses, dim=1)[torch.arange(len(order)), chosen].mean()


@pytest.mark.parametrize("progress", STEPS, ids=lambda p: f"step{p.step}")
@pytest.mark.parametrize("predictor", parts.names("predictors"))
@pytest.mark.parametrize("kind", [SimSiam, Byol])
@pytest.mark.parametrize("batch", [2, 8])
def test_guided_stop_gradient_predicts_whole_views_and_then_chooses(
    batch, kind, predictor, progress
):
    torch.manual_seed(0)
    method = kind(Toy(), hidden=8, projection=4, output_norm=True, predictor=predictor, gsg=4)
    method = method.double().train()
    views = crops(4, batch, False)
    if hasattr(
        method.predictor, "weights"
    ):  # a matrix in closed form, which starts as the identity
        method.predictor.observe(torch.randn(30, 4, dtype=torch.float64))
        method.predictor.after_step(0)
        assert not torch.equal(method.predictor.weight, torch.eye(4, dtype=torch.float64))

    def predict(twin, view):
        p = twin.predictor(view)
        # IsoLoss hands the gradient in p to z as it is
        return view + (p - view).detach() if predictor == "isoloss" else p

    def loss(twin):
        z = torch.stack(
            [
                twin.net.projector(view)
                for view in twin.net.encoder(views.flatten(0, 1)).view(4, batch, -1)
            ]
        )
        targets = z.detach()
        if kind is Byol:
            embeddings = twin.teacher.encoder(views.flatten(0, 1)).view(4, batch, -1)
            targets = torch.stack([twin.teacher.projector(view) for view in embeddings]).detach()
        torch.manual_seed(5)
        order = derangement(batch, z.device)
        value = gsg_loss(z, targets, lambda view: predict(twin, view), order)
        torch.manual_seed(5)
        return 2 + 2 * value if kind is Byol else value

    twin = copy.deepcopy(method)
    torch.manual_seed(5)
    same_value_and_gradients(method, loss, [Views(views)], progress, twin)
