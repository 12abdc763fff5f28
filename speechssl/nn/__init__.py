"""Building blocks of encoders and methods, one thing a file; channels last."""
