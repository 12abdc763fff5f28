"""Adaptation: a trained model goes on, without labels, on the user's own recordings.

Recordings are cut into pieces, some of them are held out, and the model is changed in one
or more ways (`ways`). Each changed model is compared with the one to start from on the
held-out recordings (`judging`), and the better one is kept: the start, unless a change is
better beyond chance.

    OUT/settings.json             what was asked for, and the plan that the amount of audio gave
    OUT/data/train, data/heldout  Kaldi directories of the pieces; data/skipped.tsv: what was left out
    OUT/before/, OUT/<way>/       figures and held-out embeddings of each model; training runs
    OUT/model/                    the model that is kept
    OUT/results.json, report.txt  figures, and the report in plain lines

Results that exist are not made again, so a run that was killed continues where it was.
"""

from speechssl.adapt.adapt import adapt
from speechssl.adapt.settings import AdaptSettings

__all__ = ["AdaptSettings", "adapt"]
