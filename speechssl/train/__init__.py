"""Training: one flat loop from one CPU to many devices, and what it is made of."""
