"""The base of models that are read from files."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Refuse unknown names, so that a misspelled one isn't ignored, and don't change once made."""

    model_config = ConfigDict(extra="forbid", frozen=True)
