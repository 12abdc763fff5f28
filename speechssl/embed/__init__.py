"""Embeddings from a trained model: `Embedder` and `load` for Python, `embed_to_file` for files."""

from speechssl.embed.batches import Failure
from speechssl.embed.embedder import Embedder, load
from speechssl.embed.files import Summary, embed_to_file
from speechssl.embed.settings import EmbedSettings

__all__ = ["EmbedSettings", "Embedder", "Failure", "Summary", "embed_to_file", "load"]
