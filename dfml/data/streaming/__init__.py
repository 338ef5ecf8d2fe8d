"""From a packed data set to batches: cache → sharded_images → split → order → fetching → loader."""
