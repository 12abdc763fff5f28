"""Evaluation tasks, one file each: they see embeddings, trials and labels, never a model.

`verification` scores trial lists. Nothing here is read by self-supervised training.
"""
