"""Diagnostics of collapse and quality, one file each, and the monitor that watches them in
training.
"""
