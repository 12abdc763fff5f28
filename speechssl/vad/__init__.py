"""Voice activity detectors: one file a part."""
