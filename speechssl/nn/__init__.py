"""Building blocks of encoders and methods, one thing a file; tensors are channels last."""
