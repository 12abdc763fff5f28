"""Finders of speech in recordings: one file a part."""
