"""The model card states the facts in `config.json`."""

from __future__ import annotations

from typing import Any

from orchestration.report.model_card import model_card
from orchestration.report.reproductions import Reproduction, over_seeds

TEST = {"recall_at_1": 0.5, "recall_at_2": 0.6, "map_at_r": 0.4}


def config(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "recipe": {"backbone": "resnet50", "num_sub_blocks": 2},
        "embedding_size": 2048,
        "dataset": "mine",
        "manifest_sha256": "ab" * 32,
        "splits": {"train": {"rows": 40, "classes": 10}, "test": {"rows": 30, "classes": 6}},
        "protocol": "holdout",
        "trials": 3,
        "versions": {"torch": "2.14.1"},
        "git_revision": "abc",
        "trial": 1,
        "seed": 7,
        "epochs": 4,
        "test": TEST,
        "baselines": {"raw pixels": {"recall_at_1": 0.1, "recall_at_2": 0.2, "map_at_r": 0.05}},
        "test_evaluations": 1,
        "reproductions": [{"seed": 7, "epochs": 4, "test": TEST, "reason": None}],
        "interval": {},
    }
    return values | changes


def test_a_held_out_sweeps_card() -> None:
    card = model_card(config())
    assert (
        "On the 30 test images of the data set's 6 test classes, none of which it was trained or selected on:" in card
    )
    assert "| **this model** | 0.500 | 0.600 | 0.400 |\n| raw pixels | 0.100 | 0.200 | 0.050 |\n\nProtocol" in card
    assert "evaluated 1 time(s)" in card
    assert "Trial 1 of 3, retrained on all training classes: 40 images of 10 classes, 4 epochs, seed 7." in card
    assert "95 %" not in card


def test_as_published_the_card_says_on_what_was_selected() -> None:
    card = model_card(config(protocol="paper", test_evaluations=181))
    assert "on none of which it was trained, but by whose R@1 its epoch and its trial were chosen" in card
    assert "optimistically biased" in card
    assert "trained or selected on" not in card
    assert "evaluated 181 time(s)" in card


def test_queries_and_gallery_are_named() -> None:
    splits = {
        "train": {"rows": 40, "classes": 10},
        "query": {"rows": 12, "classes": 6},
        "gallery": {"rows": 18, "classes": 7},
    }
    said = "On the 12 queries, searched in a gallery of 18 images, of the data set's 6 test classes"
    assert said in model_card(config(splits=splits))


def test_several_seeds_have_a_table_with_mean_and_interval() -> None:
    reproductions = [
        Reproduction(seed=7, epochs=4, test=TEST),
        Reproduction(seed=8, epochs=4, test=dict.fromkeys(TEST, 0.7)),
    ]
    interval = {name: each.model_dump() for name, each in over_seeds(reproductions).items()}
    card = model_card(config(reproductions=[each.model_dump() for each in reproductions], interval=interval))
    assert "| seed 8 | 0.700 | 0.700 | 0.700 |\n| mean | 0.600 | 0.650 | 0.550 |\n| 95 % interval, ± | 1.271 |" in card
    assert "The kept model is the first seed's, 7" in card


def test_a_classifiers_card() -> None:
    recipe = {"backbone": "resnet50", "num_sub_blocks": 2, "loss": "cross_entropy"}
    reproductions = [{"seed": 7, "epochs": 4, "test": {"top_1": 0.7, "top_5": 0.9}, "reason": None}]
    card = model_card(
        config(
            recipe=recipe,
            test={"top_1": 0.7, "top_5": 0.9},
            baselines={},
            protocol="paper",
            reproductions=reproductions,
        )
    )
    assert "On the 30 test images of the same classes, on none of which it was trained, but by whose top-1" in card
    assert "| **this model** | 0.700 | 0.900 |" in card


def test_it_says_how_images_are_prepared_and_how_to_search() -> None:
    card = model_card(config(recipe={"backbone": "resnet50", "num_sub_blocks": 2, "image_size": 160, "test_crop": 0.8}))
    assert "the shorter side has\n200 pixels, cropped to the central 160 × 160 pixels" in card
    for command in ("embed", "search", "export"):
        assert f"python -m dfml.{command} --model <this folder>" in card
