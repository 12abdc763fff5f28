"""Predictors of BYOL and SimSiam, one file each."""
