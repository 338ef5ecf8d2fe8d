"""From a folder of images to a Parquet file of their embeddings, which `dfml.search` looks things up in.

`folder.py` finds and reads the images, `embedding.py` embeds them, `index_file.py` is the file's format; `__main__.py` is the command.
"""
