"""Utterances, labels, trials and embeddings on disk: Kaldi directories in, records out."""
