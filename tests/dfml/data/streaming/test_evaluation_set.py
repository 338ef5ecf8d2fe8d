"""Scores on queries and a gallery, against a full matrix of cosines in numpy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dfml.data.format.manifest import read_manifest
from dfml.data.packing.pack import pack
from dfml.data.streaming.evaluation_set import EvaluationSet, images_for_test, splits_for_test
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset, subset_of_classes
from dfml.errors import InvalidInput
from dfml.evaluate import embed_set
from dfml.metrics import nearest
from dfml.recipe import Recipe
from dfml.train import Training
from tests.packed import many


@pytest.fixture(scope="module")
def gallery_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack 4 training classes, queries of 5 others, and a gallery of 4 of these and one more."""
    root = tmp_path_factory.mktemp("gallery")
    named = {"query": [4, 5, 6, 7, 8], "gallery": [9, 5, 6, 7, 8]}
    rows = many(4, 4)
    for split, classes in named.items():
        for images in many(len(classes), 3, split):
            uri = int(images.class_name.split()[1])
            rows.append(dataclasses.replace(images, class_name=f"class {classes[uri]}"))
    pack(rows, root, "inshop")
    return root


def random_embeddings(subset: ClassSubset) -> Tensor:
    generator = torch.Generator().manual_seed(len(subset) + int(subset.labels[0]))
    return F.normalize(torch.randn(len(subset), 6, generator=generator), dim=1)


def test_queries_are_looked_for_in_the_gallery_by_the_data_sets_labels(gallery_set: Path) -> None:
    images = images_for_test(str(gallery_set), "retrieval")
    assert images.gallery is not None
    # A class has a different target in each split: scoring by targets would be wrong.
    assert images.queries.classes.tolist() != images.gallery.classes.tolist()
    found = embed_set(images, random_embeddings)
    assert found.gallery is not None
    cosine = found.queries.numpy() @ found.gallery.numpy().T
    labels, in_gallery = images.queries.labels, images.gallery.labels
    answerable = np.isin(labels, in_gallery)
    assert 0 < answerable.sum() < len(labels)
    order = np.argsort(-cosine, axis=1)
    hit = in_gallery[order] == labels[:, None]
    scores = found.score((1, 2, 4))
    for k in (1, 2, 4):
        assert scores[f"recall_at_{k}"] == pytest.approx(hit[answerable, :k].any(axis=1).mean(), abs=1e-12)
    precisions = [row[: row.sum()].mean() for row in hit[answerable]]  # R-precision, Musgrave et al.
    assert scores["r_precision"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert found.full_score((1, 2, 4), seed=0) == scores  # nothing to cluster
    indices, cosines = nearest(found.queries, 3, gallery=found.gallery)
    assert indices.numpy().tolist() == order[:, :3].tolist()
    torch.testing.assert_close(cosines.numpy(), np.sort(cosine, axis=1)[:, ::-1][:, :3].copy())


def test_one_set_is_scored_among_itself(packed: Path) -> None:
    images = images_for_test(str(packed), "retrieval")
    assert images.gallery is None
    found = embed_set(images, random_embeddings)
    cosine = found.queries.numpy() @ found.queries.numpy().T
    np.fill_diagonal(cosine, -np.inf)
    right = images.queries.labels[cosine.argmax(axis=1)] == images.queries.labels
    assert found.score()["recall_at_1"] == pytest.approx(right.mean(), abs=1e-12)
    assert {"nmi", "f1"} <= set(found.full_score((1,), seed=0))


def test_a_classifier_needs_a_test_split(gallery_set: Path) -> None:
    manifest = read_manifest(gallery_set)
    assert splits_for_test(manifest, "retrieval") == ("query", "gallery")
    with pytest.raises(InvalidInput, match="no split 'test'"):
        splits_for_test(manifest, "classification")


def test_queries_without_a_gallery_are_refused(tmp_path: Path) -> None:
    pack([*many(2, 2), *many(2, 2, "query")], tmp_path, "half")
    with pytest.raises(InvalidInput, match="no split 'gallery'"):
        images_for_test(str(tmp_path), "retrieval")


def test_training_scores_each_epoch_on_the_gallery_and_says_so_before(gallery_set: Path, tiny_recipe: Recipe) -> None:
    images = images_for_test(str(gallery_set), "retrieval")
    train = subset_of_classes(ShardedImages(gallery_set, "train"))
    recipe = tiny_recipe.model_copy(update={"batch_size": 4, "epochs": 2})
    training = Training(recipe, train, images, torch.device("cpu"))
    told: list[int] = []
    scores = [f["recall_at_1"] for f in training.epochs(on_validation=lambda: told.append(training.epoch))]
    assert told == [0, 1]  # the last finished epoch, before the next epoch's score
    again = embed_set(images, training.embed).score()["recall_at_1"]
    assert scores[-1] == pytest.approx(again, abs=1e-12)
    assert training.metrics["best_score"] == max(scores)


def test_a_plain_subset_is_scored_among_itself_in_training(packed: Path, tiny_recipe: Recipe) -> None:
    validation = images_for_test(str(packed), "retrieval").queries
    training = Training(tiny_recipe, validation, validation, torch.device("cpu"))
    assert training.validation == EvaluationSet(validation)
