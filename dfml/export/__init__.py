"""Export of a trained model to a file that runs without this project: ONNX, or torch.export's .pt2.

`exportable.py` is the exported module (pixels to embeddings or probabilities) and its description,
`formats.py` writes and reads the two formats, `parity.py` compares a file with the model, and
`__main__.py` is the command.

TorchScript isn't supported: torch 2.14 deprecates it in favor of `torch.export`.
"""
