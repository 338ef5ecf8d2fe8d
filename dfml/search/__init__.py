"""Exact nearest-neighbor search in an index of `dfml.embed`, with a table and a picture as results.

`nearest.py` searches the index, `picture.py` draws, `__main__.py` is the command.
"""
