"""Embeddings from a trained model: `Embedder` and `load` for Python, `embed_to_file` for the
command line.
"""

from speechssl.embed.batches import Failure
from speechssl.embed.embedder import Embedder, load
from speechssl.embed.files import Summary, embed_to_file

__all__ = ["Embedder", "Failure", "Summary", "embed_to_file", "load"]
