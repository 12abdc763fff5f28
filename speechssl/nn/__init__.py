"""Building blocks of encoders and methods: frames and masks, pooling, heads, moving averages."""
