"""Iterative pseudo-labelling: embed -> cluster -> filter -> train on the clusters, and again.

The second half of Cho et al. 2022 (4.38 to 1.89 % EER) and of the systems in
recipes/README.md 5. No label is read: the classes of every round are clusters of the
embeddings of the model before it. Rounds end after a number of them, by a label-free
criterion, or by a held-out trial list, which the results then name; the trials that a
result is reported on are never looked at.

    OUT/config.yaml, pseudolabel.json      settings; the figures of each round
    OUT/round-0/embeddings.npz, clusters/  of the model to start from
    OUT/round-1/train/                     the run on round 0's clusters; beside it, embeddings and
                                           clusters of its model
    OUT/round-1/large-margin/              if asked for, of the round that was chosen
    OUT/model/                             the chosen model

Results that exist are not made again, so a run that was killed continues where it was.
"""

from speechssl.pseudolabel.loop import pseudolabel
from speechssl.pseudolabel.settings import PseudoLabelSettings

__all__ = ["PseudoLabelSettings", "pseudolabel"]
