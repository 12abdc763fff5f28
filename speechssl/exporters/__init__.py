"""Formats for other programs, one file each: ``write(model, folder)`` (``speechssl export``)."""
