"""From images to batches: shards on disk (`manifest`, `shards`), the split of classes, the order, the loader.

Data flows manifest → shards → split → order → loader; each is a file here. Nothing here knows of models or clusters.
"""
