"""A packed data set on disk: manifest, index, shards, and how an image is encoded in them."""
