"""A trained model as a file that runs without this project: ONNX, or torch.export's .pt2.

`exportable.py` is what goes into the file: pixels to embeddings or probabilities, and the words for both. `formats.py` writes and reads
the two formats, `parity.py` compares one with the model; `__main__.py` is the command.

TorchScript is left out: torch 2.14 warns that `torch.jit.trace` and `torch.jit.script` are deprecated in favour of `torch.export`.
"""
