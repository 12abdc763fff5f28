"""Evaluation tasks: they see embeddings, trials and labels, never a model (README.md).

Nothing here is read by self-supervised training.
"""
