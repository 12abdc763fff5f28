"""Small settings of every method, a small encoder, and batches for it."""

import torch
from torch import nn

from speechssl import interfaces, parts
from speechssl.interfaces import Views

MELS, FRAMES, UTTERANCES = 12, 20, 8
PAIR = {"hidden": 24, "projection": 8}
SMALL = {
    "dino": {"prototypes": 16, "layers": 2, "hidden": 24, "bottleneck": 8},
    "simclr": PAIR,
    "byol": {**PAIR, "teacher_momentum": 0.9},
    "simsiam": PAIR,
    "barlow_twins": PAIR,
    "vicreg": PAIR,
    "vibcreg": PAIR,
    "wmse": {**PAIR, "projection": 4},
    "align_uniform": PAIR,
    "centre_vector": PAIR,
    "sgfree_decorr": PAIR,
    "swav": {**PAIR, "prototypes": 8},
    "deepcluster": {**PAIR, "prototypes": 4, "heads": 2},
    "moco": {**PAIR, "queue_size": 32},
    "moco_v3": PAIR,
    "trip_roma": {**PAIR, "random_dim": 8},
    "unigrad": PAIR,
    "c3_dino": {
        **PAIR, "queue_size": 32, "prototypes": 4,
        "dino": {"prototypes": 16, "layers": 2, "hidden": 24, "bottleneck": 8},
    },
    "dimcl": {"base": {"name": "byol", **PAIR}},
}  # fmt: skip


class Encoder(interfaces.Encoder):
    embedding_dim = 16

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(MELS, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, self.embedding_dim)
        )

    def forward(self, features, lengths=None):
        return self.net(features.mean(1))


def make(name, seed=0, **settings):
    """A method around the small encoder, in training."""
    torch.manual_seed(seed)
    method = parts.build(
        "methods", {"name": name, **SMALL.get(name, {}), **settings}, Encoder()
    ).train()
    method.prepare(UTTERANCES, torch.arange(UTTERANCES) // 2)
    return method


def views(batch=8, seed=0, count=2):
    """Long and two short crops; those of one utterance resemble each other."""
    g = torch.Generator().manual_seed(seed)
    voice = 2 * torch.randn(1, batch, 1, MELS, generator=g)
    long = voice + torch.randn(count, batch, FRAMES, MELS, generator=g)
    short = voice + torch.randn(2, batch, FRAMES // 2, MELS, generator=g)
    ids = torch.arange(batch)
    return [Views(long, ids=ids), Views(short, "student", ids)]


def trainable(method):
    """Parameters that are to get a gradient."""
    return [p for p in method.parameters() if p.requires_grad]
