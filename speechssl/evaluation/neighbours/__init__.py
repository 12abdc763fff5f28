"""Nearest neighbours among millions of embeddings: an index on disk, built once, searched by faiss."""
