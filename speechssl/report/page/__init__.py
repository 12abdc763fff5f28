"""One page of a few experiments, to look at and to listen to: a single HTML file (README.md)."""
