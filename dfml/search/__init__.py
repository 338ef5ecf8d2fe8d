"""Looks images up in what `dfml.embed` wrote: the nearest of each, exactly, as a table and as a picture.

`nearest.py` goes through the index, `picture.py` draws; `__main__.py` is the command.
"""
