"""One file a corpus: `prepare(root, out, *, ...)` writes Kaldi directories, and trials where it has
any.
"""
