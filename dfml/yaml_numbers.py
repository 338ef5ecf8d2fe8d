"""YAML with the numbers of version 1.2: in 1.1, which PyYAML follows, 1e-4 is text."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml import YAMLError

__all__ = ["YAMLError", "parse_yaml"]


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Raises:
        YAMLError: the text isn't YAML.
    """
    return yaml.load(text, Loader=_Loader)
