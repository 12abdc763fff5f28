"""Self-supervised methods, one file each: losses as plain functions, the head, the step."""
