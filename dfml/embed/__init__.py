"""Embedding of a folder of images into a Parquet file that `dfml.search` searches.

`folder.py` finds and reads the images, `embedding.py` embeds them, `index_file.py` defines the
file's format, `__main__.py` is the command.
"""
