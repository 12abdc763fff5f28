"""Augmentation of crops (rooms, noise, channels, codecs) and of features (SpecAugment)."""
