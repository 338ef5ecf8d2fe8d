"""The protocols: on which images an epoch and a trial are chosen, and how that is put in words."""

from __future__ import annotations

from typing import Literal, NamedTuple

from dfml.task import Task

ProtocolName = Literal["holdout", "paper"]


class Protocol(NamedTuple):
    """A protocol; `{score}` and `{unit}` in its sentences stand for the task's words.

    Attributes:
        scores_on_test: whether every epoch is scored on the test images, to choose the best.
        epoch: how a run's epoch is chosen.
        rule: how epoch and trial of a sweep are chosen, and what that means for its test metrics.
        winner: how the winner's model was trained.
        tested: how the winner's model relates to the test images.
    """

    scores_on_test: bool
    epoch: str
    rule: str
    winner: str
    tested: str

    @property
    def scored_on(self) -> str:
        """Return the images that a trial's score belongs to: "validation" or "test"."""
        return "test" if self.scores_on_test else "validation"

    def of(self, task: Task) -> Protocol:
        """Return the protocol in the words of a task."""
        texts = (text.replace("{score}", task.heading).replace("{unit}", task.unit) for text in self[1:])
        return Protocol(self.scores_on_test, *texts)


PROTOCOLS: dict[str, Protocol] = {
    "holdout": Protocol(
        scores_on_test=False,
        epoch="the epoch is chosen on held-out training {unit}; the test {unit} are evaluated once",
        rule="trials were scored on a held-out part of the training split (for retrieval a class-disjoint fifth of its "
        "classes, for classification a tenth of each class's images); only the winner was retrained on all of it and "
        "scored on the test images.",
        winner="retrained on all training {unit}",
        tested="none of which it was trained or selected on",
    ),
    "paper": Protocol(
        scores_on_test=True,
        epoch="the epoch is chosen by {score} on the test {unit} themselves, as published; the test metrics are "
        "optimistically biased",
        rule="as published, every trial was trained on all of the training split, and every epoch of it was scored on "
        "the test images; epoch and trial were chosen by {score} on these very images. The test metrics are "
        "optimistically biased, and compare only with papers that do the same.",
        winner="trained on all training {unit}, epoch chosen on the test {unit}",
        tested="on none of which it was trained, but by whose {score} its epoch and its trial were chosen",
    ),
}
