"""From images to batches; each step is a file here, and nothing here knows of models or clusters.

readers → packing → shards, index, manifest | cache → dataset → split → order → fetching, loader
"""
