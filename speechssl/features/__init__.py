"""Front ends, one file each: waveforms to frames of features."""
