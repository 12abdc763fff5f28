"""Small settings of every method, a small encoder, and batches for it."""

import torch
from builders import ToyEncoder, on_device

from speechssl import parts
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
    "mio": PAIR,
    "trip_roma": {**PAIR, "random_dim": 8},
    "unigrad": PAIR,
    "c3_dino": {
        **PAIR, "queue_size": 32, "prototypes": 4,
        "dino": {"prototypes": 16, "layers": 2, "hidden": 24, "bottleneck": 8},
    },
    "dimcl": {"base": {"name": "byol", **PAIR}},
    "plus_contrast": {"base": {"name": "simsiam", **PAIR}},
    "ccfc": PAIR,
}  # fmt: skip


def make(name, seed=0, **settings):
    """A method around a toy encoder, in training."""
    torch.manual_seed(seed)
    method = parts.build(
        "methods", {"name": name, **SMALL.get(name, {}), **settings}, ToyEncoder(MELS)
    ).train()
    method.prepare(UTTERANCES, torch.arange(UTTERANCES) // 2)
    return on_device(method)


def views(batch=8, seed=0, count=2):
    """Long and two short crops; those of one utterance resemble each other."""
    g = torch.Generator().manual_seed(seed)
    voice = 2 * torch.randn(1, batch, 1, MELS, generator=g)
    long = voice + torch.randn(count, batch, FRAMES, MELS, generator=g)
    short = voice + torch.randn(2, batch, FRAMES // 2, MELS, generator=g)
    ids = on_device(torch.arange(batch))
    return [Views(on_device(long), ids=ids), Views(on_device(short), "student", ids)]


def trainable(method):
    """Parameters that are to get a gradient."""
    return [p for p in method.parameters() if p.requires_grad]
