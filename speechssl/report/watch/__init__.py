"""A run while it goes on: its log read as it grows, for the terminal and for a page (`speechssl watch`)."""
