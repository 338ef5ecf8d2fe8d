"""The path from images to batches: one file per step, independent of models and clusters.

readers → packing → shards, index, manifest | cache → dataset → split → order → fetching, loader
"""
