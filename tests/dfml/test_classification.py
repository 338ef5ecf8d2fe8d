"""Classification: the same factorized backbone with its classifier and cross-entropy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from dfml.data.format.images import decode
from dfml.data.format.manifest import read_manifest
from dfml.data.format.shards import ImageRow
from dfml.data.packing.pack import pack
from dfml.data.packing.readers.imagenet import read_imagenet
from dfml.data.streaming.loader import Loader
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import holdout_rows, subset_of_classes, training_and_validation
from dfml.embedding_model import build_model
from dfml.errors import InvalidInput
from dfml.evaluate.accuracy import accuracy
from dfml.metrics.classification import hits
from dfml.objective import Objective
from dfml.recipe import recipe_from
from dfml.saved_model import load, save_model
from dfml.train import Training
from tests.benchmark_layouts import draw
from tests.dfml.factorized.backbones import randomized

CPU = torch.device("cpu")
VALUES = {
    "backbone": "test_resnet",
    "weights": "random",
    "loss": "cross_entropy",
    "num_sub_blocks": 2,
    "image_size": 32,
    "batch_size": 6,
    "epochs": 2,
    "warm_epochs": 1,
    "lr": 1e-3,
}


def imagenet(root: Path, classes: int = 6) -> Path:
    """Draw a miniature in ImageNet's layout: 5 training and 2 validation images per class."""
    for number in range(classes):
        for folder, count in (("train", 5), ("val", 2)):
            for i in range(count):
                draw(root / folder / f"n{number:08d}" / f"{folder}_{i}.JPEG", number, 10 * i + (folder == "val"))
    return root


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    pack(read_imagenet(imagenet(root / "raw")), root / "packed", "imagenet")
    return root / "packed"


def test_train_and_val_share_their_labels(packed: Path) -> None:
    assert {name: (s.rows, s.classes) for name, s in read_manifest(packed).splits.items()} == {
        "train": (30, 6),
        "test": (12, 6),
    }
    train, test = ShardedImages(packed, "train"), ShardedImages(packed, "test")
    assert [Path(test.paths[i]).parent.name for i in range(12)] == [train.class_names[label] for label in test.labels]


def test_other_classes_in_val_are_refused(tmp_path: Path) -> None:
    imagenet(tmp_path)
    draw(tmp_path / "val" / "n99999999" / "x.JPEG", 1, 1)
    with pytest.raises(InvalidInput, match=r"'n99999999' is in one only"):
        list(read_imagenet(tmp_path))


@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_each_class_is_held_out(seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat([3, 5, 9, 11], [40, 7, 2, 1]))
    training, validating = holdout_rows(labels, seed, "classification")
    assert sorted([*training, *validating]) == list(range(50))
    assert {c: int((labels[validating] == c).sum()) for c in (3, 5, 9, 11)} == {3: 4, 5: 1, 9: 1, 11: 0}
    again = holdout_rows(labels, seed, "classification")
    assert np.array_equal(again[1], validating)
    assert not np.array_equal(holdout_rows(labels, seed + 1, "classification")[1], validating)


def test_top_1_and_top_5_are_those_of_a_sort_and_ties_count_against_the_model() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 9, generator=generator), torch.randint(9, (200,), generator=generator)
    order = logits.argsort(dim=1, descending=True)
    expected = [float((order[:, :k] == labels[:, None]).any(1).sum()) for k in (1, 5)]
    assert hits(logits, labels).tolist() == expected
    assert hits(torch.zeros(4, 9), torch.arange(4)).tolist() == [0.0, 0.0]


@torch.inference_mode()
def test_classifier_of_the_weights_is_timms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32, num_classes=6).eval()
    model.head.weight.normal_()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    recipe = recipe_from({**VALUES, "backbone": "test_vit", "weights": str(tmp_path / "w.pth")})
    images = torch.randn(3, 3, 32, 32)
    given = build_model(recipe, class_names="abcdef").eval().logits(images)
    torch.testing.assert_close(given, model(images), rtol=1e-4, atol=1e-4)
    other = build_model(recipe, class_names="abcd").eval()  # no classifier of 4 classes there: a new one
    assert other.logits(images).shape == (3, 4)


def test_loss_is_cross_entropy_on_both_paths() -> None:
    torch.manual_seed(0)
    recipe = recipe_from({**VALUES, "label_smoothing": 0.1, "routed_weight": 0.3})
    model = build_model(recipe, class_names="abcd")
    randomized(model)
    objective = Objective(model, 4).double().train()
    images, labels = torch.randn(5, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 3, 2, 2, 1])
    terms = objective(images, labels)
    both = objective.model.both_paths(images)

    def expected(features: torch.Tensor) -> torch.Tensor:
        log_p = torch.log_softmax(objective.model.classifier(features), 1)
        return -(0.9 * log_p[torch.arange(5), labels] + 0.1 * log_p.mean(1)).mean()

    torch.testing.assert_close(terms["loss_full"], expected(both.full))
    torch.testing.assert_close(terms["loss_routed"], expected(both.routed))
    embedding = (F.normalize(both.routed, dim=1) - F.normalize(both.full, dim=1)).norm(dim=1).sum()
    total = expected(both.full) + 0.3 * (expected(both.routed) + 0.1 * embedding + 1e-5 * both.distance)
    torch.testing.assert_close(terms["loss"], total)


def test_classifier_trains_in_the_warm_up() -> None:
    objective = Objective(build_model(recipe_from(VALUES), class_names="abcd"), 4)
    objective.set_warm_up(True)
    training = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert {"model.classifier.weight", "model.classifier.bias"} < training
    assert all("router." in name or "classifier" in name for name in training)


def test_training_scores_top_1_and_the_stored_model_says_the_same(packed: Path, tmp_path: Path) -> None:
    images = ShardedImages(packed, "train")
    recipe = recipe_from(VALUES)
    training = Training(recipe, *training_and_validation(images, 0, "classification"), CPU)
    metrics = list(training.epochs())
    assert all(0 <= f["top_1"] <= f["top_5"] <= 1 and f["score"] == f["top_1"] for f in metrics)
    assert metrics[-1]["best_score"] == max(f["top_1"] for f in metrics)
    save_model(tmp_path, training.model, {})
    model = load(tmp_path)
    test = ShardedImages(packed, "test")
    subset = subset_of_classes(test)
    found = accuracy(model, subset, CPU, Loader(recipe, [subset]))
    probabilities = model.classify([test.image(i) for i in range(len(test))])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(12))
    named = [model.class_names[i] for i in probabilities.argmax(1)]
    right = [name == test.class_names[label] for name, label in zip(named, test.labels, strict=True)]
    assert found["top_1"] == pytest.approx(sum(right) / 12)


def test_retrieval_model_has_no_classifier(tmp_path: Path) -> None:
    model = build_model(recipe_from({**VALUES, "loss": "proxy_anchor"}), class_names="ab")
    draw(tmp_path / "x.jpg", 0, 0)
    with pytest.raises(InvalidInput, match="no classifier; use embed"):
        model.classify([decode((tmp_path / "x.jpg").read_bytes())])


def test_images_of_an_unknown_class_are_refused(packed: Path, tmp_path: Path) -> None:
    draw(tmp_path / "x.jpg", 0, 0)
    pack([ImageRow((tmp_path / "x.jpg").read_bytes(), "new", "x.jpg", "test")], tmp_path / "other", "other")
    model = build_model(recipe_from(VALUES), class_names="ab")
    subset = subset_of_classes(ShardedImages(tmp_path / "other", "test"))
    with pytest.raises(InvalidInput, match="class 'new' of the test images isn't one"):
        accuracy(model, subset, CPU, Loader(model.recipe, [subset]))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"embedding_size": 8}, "drop embedding_size"),
        ({"alpha": 3.0}, "cross_entropy has no alpha"),
        ({"loss": "ms", "images_per_class": 2, "label_smoothing": 0.1}, "label_smoothing belongs to cross_entropy"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(values: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        recipe_from({**VALUES, **values})
