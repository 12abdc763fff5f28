"""Files of embeddings, one file a format."""
