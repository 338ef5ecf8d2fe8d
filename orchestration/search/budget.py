"""The budget of a search."""

from __future__ import annotations

import re

from dfml.errors import InvalidInput
from dfml.strict_model import StrictModel

HOURS = {"h": 1.0, "min": 1 / 60}


class Budget(StrictModel):
    """A limit of the search, in hours or in epochs; the winner's retraining isn't included.

    Attributes:
        hours: hours of wall-clock time; None if the limit is in epochs.
        epochs: epochs of all trials together; None if the limit is in hours.
    """

    hours: float | None = None
    epochs: int | None = None

    def __str__(self) -> str:
        return f"{self.epochs} epochs" if self.hours is None else f"{self.hours:g} h"


def parse_budget(text: str) -> Budget:
    """Parse a budget such as "12h", "90min" or "300epochs".

    Raises:
        InvalidInput: the text has another form.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(h|min|epochs?)", text.strip())
    number = float(found[1]) if found else 0.0
    if not found or number <= 0 or (found[2].startswith("epoch") and not number.is_integer()):
        raise InvalidInput(
            f"--budget {text!r} isn't a budget; give hours, minutes or epochs, such as 12h, 90min or 300epochs"
        )
    if found[2].startswith("epoch"):
        return Budget(epochs=int(number))
    return Budget(hours=number * HOURS[found[2]])
