"""Diagnostics of collapse and quality, one file each, and the monitor of a training run."""
