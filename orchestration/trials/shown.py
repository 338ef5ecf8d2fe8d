"""The groups of retrievals that are shown (see `examples`), and where their pictures are."""

SHOWN = {"random": 6, "right": 4, "surest mistake": 4, "found last": 4}  # queries of each


def picture_of(group: str) -> str:
    """The name of a group's picture in `report/`, without ending."""
    return f"retrievals_{group.replace(' ', '_')}"
