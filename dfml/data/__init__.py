"""The path from images to batches, independent of models and clusters.

`packing` writes the files that `format` describes, `streaming` reads them.
"""
