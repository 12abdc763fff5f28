"""Encoders: one module a network, from frames of features (B, F, M) to embeddings (B, D)."""
