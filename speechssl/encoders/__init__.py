"""Encoders, one module each: frames of features (B, F, M) to embeddings (B, D)."""
