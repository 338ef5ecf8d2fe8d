"""The images on which a model is scored: either one set, or queries and a gallery."""

from __future__ import annotations

from dataclasses import dataclass

from dfml.data.format.manifest import Manifest, read_manifest
from dfml.data.streaming.cache import Cache
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset, subset_of_classes
from dfml.task import TaskName


@dataclass(frozen=True)
class EvaluationSet:
    """The images on which a score is computed.

    Attributes:
        queries: the images to search for, or to classify.
        gallery: the images to search in; None: all other queries.
    """

    queries: ClassSubset
    gallery: ClassSubset | None = None

    @property
    def parts(self) -> list[ClassSubset]:
        """Return the queries and, if there is one, the gallery."""
        return [self.queries] if self.gallery is None else [self.queries, self.gallery]


def splits_for_test(manifest: Manifest, task: TaskName) -> tuple[str, ...]:
    """Return the names of the test splits: query and gallery if the data set has them, else test.

    Raises:
        InvalidInput: the data set has no such split.
    """
    apart = task == "retrieval" and not {"query", "gallery"}.isdisjoint(manifest.splits)
    names = ("query", "gallery") if apart else ("test",)
    for name in names:
        manifest.split(name)
    return names


def images_for_test(data: str, task: TaskName, cache: Cache | None = None) -> EvaluationSet:
    """Return the test images of a packed data set.

    Args:
        data: the data set's folder or URI.
        task: the task; only retrieval uses a gallery.
        cache: the cache for files from S3.

    Raises:
        InvalidInput: the data set has no such split.
    """
    names = splits_for_test(read_manifest(data), task)
    return EvaluationSet(*(subset_of_classes(ShardedImages(data, name, cache)) for name in names))
