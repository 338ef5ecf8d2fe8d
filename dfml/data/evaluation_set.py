"""The images on which a model is scored: one set, in which each is looked for among the others, or queries and a gallery."""

from __future__ import annotations

from dataclasses import dataclass

from dfml.data.cache import Cache
from dfml.data.dataset import ShardedImages
from dfml.data.manifest import Manifest, read_manifest
from dfml.data.split import ClassSubset, subset_of_classes
from dfml.task import TaskName


@dataclass(frozen=True)
class EvaluationSet:
    """What a score is computed on.

    Attributes:
        queries: the images that are looked for, or classified.
        gallery: in which they are looked for; None: each query among the others.
    """

    queries: ClassSubset
    gallery: ClassSubset | None = None


def splits_for_test(manifest: Manifest, task: TaskName) -> tuple[str, ...]:
    """The names of the splits a model is tested on: query and gallery where a data set has them, else test.

    Raises:
        InvalidInput: the data set lacks one.
    """
    apart = task == "retrieval" and not {"query", "gallery"}.isdisjoint(manifest.splits)
    names = ("query", "gallery") if apart else ("test",)
    for name in names:
        manifest.split(name)
    return names


def images_for_test(data: str, task: TaskName, cache: Cache | None = None) -> EvaluationSet:
    """The images of a packed data set that are kept for the test. Raises as `splits_for_test`.

    Args:
        data: its place.
        task: decides whether a gallery is of use.
        cache: keeps what is fetched from S3.
    """
    names = splits_for_test(read_manifest(data), task)
    return EvaluationSet(*(subset_of_classes(ShardedImages(data, name, cache)) for name in names))
