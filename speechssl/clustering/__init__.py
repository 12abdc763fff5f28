"""Clusterers, one file each, with scikit-learn's ``fit_predict``."""
