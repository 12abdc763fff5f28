"""Predictors of BYOL, SimSiam and their relatives, one module each."""
