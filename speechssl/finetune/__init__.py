"""Fine-tuning on a labelled task, with the folds of the classification probe.

In each fold a linear classifier on the standardised embedding is trained with AdamW and
a cosine schedule, in the two steps of Cho et al. 2022 (JSTSP, arXiv 2208.05445), who
found them better than training everything at once:

1. `affine`: the classifier and the encoder's layers after pooling
   (`Encoder.affine_layers`). The layers before them are fixed, so their output is
   computed once, for whole utterances, and a step costs next to nothing;
2. `all`: everything, on random crops. BatchNorm keeps its statistics: a few hundred
   utterances of a few speakers would spoil them.

Both steps are repeated for each share of the training labels (at least one utterance of
each class, drawn by the seed), which gives the label-efficiency curve. The number of
steps is fixed beforehand: nothing is chosen on the test folds. Labels are used, and the
results say so.
"""

from speechssl.finetune.classifier import Classifier
from speechssl.finetune.evaluate import draw, finetune
from speechssl.finetune.saved import SavedClassifier
from speechssl.finetune.settings import FinetuneSettings

__all__ = ["Classifier", "FinetuneSettings", "SavedClassifier", "draw", "finetune"]
