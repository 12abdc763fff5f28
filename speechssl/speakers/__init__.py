"""Speaker verification with calibrated verdicts, and identification of known voices."""
