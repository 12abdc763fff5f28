"""Decide who speaks: calibrated verdicts about two recordings, and known voices."""
