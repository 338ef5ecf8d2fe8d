"""What the protocols do, in words: for the console, the report and the model card."""

from __future__ import annotations

from typing import NamedTuple

from dfml.task import Task


class Protocol(NamedTuple):
    """Sentences about a protocol; `of` fills in what the task calls things.

    Attributes:
        rule: how epoch and trial are chosen, and what that means for the figures.
        winner: what the winner's model is.
        tested: what its relation to the test images is.
    """

    rule: str
    winner: str
    tested: str

    def of(self, task: Task) -> Protocol:
        return Protocol(*(text.replace("{score}", task.heading).replace("{unit}", task.unit) for text in self))


PROTOCOLS = {
    "holdout": Protocol(
        rule="trials were scored on a part of the training split that was held out (for retrieval a class-disjoint fifth of its classes, "
        "for classification a tenth of each class's images); only the winner was retrained on all of it and scored on the test images.",
        winner="retrained on all training {unit}",
        tested="none of which it was trained or selected on",
    ),
    "paper": Protocol(
        rule="as published, every trial was trained on all of the training split, and every epoch of it was scored on the test images; "
        "epoch and trial were picked by {score} on these very images. The figures flatter, and compare only with papers that do the same.",
        winner="trained on all training {unit}, epoch picked on the test {unit}",
        tested="on none of which it was trained, but by whose {score} its epoch and its trial were picked",
    ),
}
