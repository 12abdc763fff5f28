"""Corpora to Kaldi directories, one file a corpus: `prepare(root, out, *, ...)`; see README.md."""
