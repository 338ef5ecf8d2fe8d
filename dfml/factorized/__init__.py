"""Factorized backbones: blocks cut into K sub-blocks, with routers, a full path and a routed path.

`router` and `sub_blocks` are the two parts of the method, `backbone` is the interface, and `vit`,
`resnet` and `efficientnet` are its families; `factorize` converts a timm model. A new family is one
file here and one line in `factorize.FAMILIES`.
"""

from dfml.factorized.backbone import BothPaths, FactorizedBackbone, ForwardPath, RoutingSums, at_least_float32
from dfml.factorized.factorize import allowed_sub_block_counts, factorize

__all__ = [
    "BothPaths",
    "FactorizedBackbone",
    "ForwardPath",
    "RoutingSums",
    "allowed_sub_block_counts",
    "at_least_float32",
    "factorize",
]
