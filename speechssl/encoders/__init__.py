"""Encoders: one module a network, each turning frames of features (B, F, M) into embeddings (B,
D).
"""
