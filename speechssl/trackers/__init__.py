"""Programs that show a training while it runs and afterwards: one file a part."""
