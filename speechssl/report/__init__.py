"""Pictures and pages about a run, drawn from arrays and files; nothing here computes a result."""
