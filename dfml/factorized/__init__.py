"""Factorized backbones: blocks cut into K sub-blocks, a router before each, a full path and a routed path.

`router` and `sub_blocks` are the method's two parts, `backbone` the interface, `vit`, `resnet` and `efficientnet` its families;
`factorize` turns a timm model into one. A new family is one file here and one line in `factorize.FAMILIES`.
"""

from dfml.factorized.backbone import BothPaths, FactorizedBackbone, Path, RoutingSums, at_least_float32
from dfml.factorized.factorize import allowed_routers, factorize

__all__ = ["BothPaths", "FactorizedBackbone", "Path", "RoutingSums", "allowed_routers", "at_least_float32", "factorize"]
