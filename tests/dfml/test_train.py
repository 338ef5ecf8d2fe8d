"""The training loop on drawn images: warm-up, reproducibility, resuming, and learning."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import StepLR

from dfml.data.streaming.loader import Loader
from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import ClassSubset, subset_of_classes
from dfml.evaluate import embed
from dfml.objective import is_router
from dfml.recipe import Recipe, recipe_from
from dfml.schedule import CosineDecay
from dfml.train import Training, TrainingDiverged
from tests.dfml.conftest import TINY
from tests.epoch_metrics import flat

CPU = torch.device("cpu")
SHORT_STEPS = {**TINY, "batch_size": 4}  # 4 or 5 steps per epoch
Undisturbed = tuple[list[dict[str, float]], dict[str, Tensor]]


@pytest.fixture(scope="module")
def train(train_images: ShardedImages) -> ClassSubset:
    return subset_of_classes(train_images, np.arange(5))


@pytest.fixture(scope="module")
def validation(train_images: ShardedImages) -> ClassSubset:
    return subset_of_classes(train_images, np.arange(5, 7))


def figures_and_parameters(recipe: Recipe, train: ClassSubset, validation: ClassSubset) -> Undisturbed:
    training = Training(recipe, train, validation, CPU)
    metrics = [dict(epoch) for epoch in training.epochs()]
    return metrics, parameters(training)


@pytest.fixture(scope="module")
def undisturbed(train: ClassSubset, validation: ClassSubset) -> Undisturbed:
    """Return the metrics of an undisturbed run's epochs, and its final parameters."""
    return figures_and_parameters(recipe_from(TINY), train, validation)


@pytest.fixture(scope="module")
def undisturbed_in_short_steps(train: ClassSubset, validation: ClassSubset) -> Undisturbed:
    return figures_and_parameters(recipe_from(SHORT_STEPS), train, validation)


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in flat(metrics).items() if "second" not in name and name != "began"}


def parameters(training: Training) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in training.objective.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_warm_up_trains_proxies_and_routers_alone(tiny_recipe: Recipe, train: ClassSubset) -> None:
    training = Training(tiny_recipe, train, None, CPU)
    start = parameters(training)
    buffers = {name: buffer.clone() for name, buffer in training.model.named_buffers()}
    epochs = training.epochs()
    next(epochs)
    warm = parameters(training)
    assert changed(start, warm) == {name for name in start if is_router(name) or name == "metric_loss.proxies"}
    next(epochs)
    assert changed(warm, parameters(training)) == set(start)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in training.model.named_buffers())


def test_figures_of_an_epoch(undisturbed: Undisturbed) -> None:
    epochs, _ = undisturbed
    assert [metrics["epoch"] for metrics in epochs] == [1, 2, 3]
    for name in ("loss", "loss_full", "loss_routed", "recall_at_1", "map_at_r", "r_precision", "images_per_second"):
        assert all(np.isfinite(metrics[name]) for metrics in epochs)
    for i, metrics in enumerate(epochs):
        recalls = [earlier["recall_at_1"] for earlier in epochs[: i + 1]]
        assert metrics["best_score"] == max(recalls)
        assert metrics["best_epoch"] == recalls.index(max(recalls)) + 1


def test_learning_rates_are_the_schedules_and_the_proxies_are_multiplied(
    tiny_recipe: Recipe, train: ClassSubset
) -> None:
    training = Training(tiny_recipe, train, None, CPU)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=tiny_recipe.lr)
    truth = StepLR(optimizer, step_size=1, gamma=0.5)
    proxies = training.objective.metric_loss.proxies
    for metrics in training.epochs():
        assert metrics["lr"] == pytest.approx(truth.get_last_lr()[0])
        for group in training.optimizer.param_groups:
            factor = 100 if any(parameter is proxies for parameter in group["params"]) else 1
            assert group["lr"] == pytest.approx(factor * truth.get_last_lr()[0])
        optimizer.step()
        truth.step()


def test_every_parameter_is_in_the_optimizer_once(tiny_recipe: Recipe, train: ClassSubset) -> None:
    training = Training(tiny_recipe, train, None, CPU)
    held = [id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, training.objective.parameters()))
    assert all(group["weight_decay"] == tiny_recipe.weight_decay for group in training.optimizer.param_groups)


def test_gradients_are_clipped_by_value(tiny_recipe: Recipe, train: ClassSubset) -> None:
    training = Training(tiny_recipe.model_copy(update={"clip_value": 1e-4}), train, None, CPU)
    list(training.epochs(2))
    largest = max(float(parameter.grad.abs().max()) for parameter in training.objective.parameters())
    assert largest == pytest.approx(1e-4)


def test_gradients_are_freed_before_the_forward_pass(tiny_recipe: Recipe, train: ClassSubset) -> None:
    training = Training(tiny_recipe.model_copy(update={"warm_epochs": 0}), train, None, CPU)
    held: list[int] = []
    training.objective.register_forward_pre_hook(
        lambda objective, _: held.append(sum(parameter.grad is not None for parameter in objective.parameters()))
    )
    next(training.epochs())
    assert len(held) > 1
    assert set(held) == {0}
    assert all(parameter.grad is not None for parameter in training.objective.parameters())


def test_same_seed_gives_the_same_figures(
    tiny_recipe: Recipe, train: ClassSubset, validation: ClassSubset, undisturbed: Undisturbed
) -> None:
    def run(recipe: Recipe, epochs: int) -> list[dict[str, float]]:
        torch.manual_seed(int(np.random.default_rng().integers(1000)))  # must not matter
        return [numbers(metrics) for metrics in Training(recipe, train, validation, CPU).epochs(epochs)]

    expected = [numbers(metrics) for metrics in undisturbed[0]]
    assert run(tiny_recipe, 2) == expected[:2]
    assert run(tiny_recipe.model_copy(update={"seed": 1}), 1)[0]["loss"] != expected[0]["loss"]


@pytest.mark.parametrize("stop", [1, 2], ids=["at the end of warm-up", "after warm-up"])
def test_resumed_run_gives_the_figures_of_an_uninterrupted_one(
    tiny_recipe: Recipe,
    train: ClassSubset,
    validation: ClassSubset,
    undisturbed: Undisturbed,
    tmp_path: Path,
    stop: int,
) -> None:
    expected, trained = undisturbed
    first = Training(tiny_recipe, train, validation, CPU)
    list(first.epochs(stop))
    first.save(tmp_path)
    second = Training(tiny_recipe, train, validation, CPU)
    second.load(tmp_path)
    assert second.epoch == stop
    given = [numbers(metrics) for metrics in second.epochs()]
    assert len(given) == 3 - stop
    for metrics, truth in zip(given, expected[stop:], strict=True):
        assert metrics == pytest.approx(numbers(truth), rel=1e-5)
    torch.testing.assert_close(parameters(second), trained, rtol=1e-4, atol=1e-6)


@pytest.mark.integration
@pytest.mark.parametrize("stop", [(1, 1), (1, 3), (2, 2)], ids=["first step", "warm-up", "after warm-up"])
def test_run_resumed_within_an_epoch_gives_the_figures_of_an_uninterrupted_one(
    train: ClassSubset,
    validation: ClassSubset,
    undisturbed_in_short_steps: Undisturbed,
    tmp_path: Path,
    stop: tuple[int, int],
) -> None:
    recipe = recipe_from(SHORT_STEPS)
    expected, trained = undisturbed_in_short_steps
    first = Training(recipe, train, validation, CPU)

    class Stopped(Exception):
        pass

    def checkpoint() -> None:
        assert first.mid_epoch is not None
        if (first.epoch + 1, first.mid_epoch.step) == stop:
            first.save(tmp_path)
            raise Stopped

    with pytest.raises(Stopped):
        list(first.epochs(on_checkpoint=checkpoint, checkpoint_steps=1))
    second = Training(recipe, train, validation, CPU)
    second.load(tmp_path)
    steps: list[tuple[int, int]] = []
    given = [numbers(metrics) for metrics in second.epochs(on_step=lambda epoch, step, *_: steps.append((epoch, step)))]
    assert steps[0] == (stop[0], stop[1] + 1)
    for metrics, truth in zip(given, expected[stop[0] - 1 :], strict=True):
        assert metrics == pytest.approx(numbers(truth), rel=1e-5)
    torch.testing.assert_close(parameters(second), trained, rtol=1e-4, atol=1e-6)


def test_what_is_saved_after_an_epoch_says_nothing_of_the_middle_of_one(
    tiny_recipe: Recipe, train: ClassSubset, tmp_path: Path
) -> None:
    training = Training(tiny_recipe, train, None, CPU)
    list(training.epochs(1, on_checkpoint=lambda: None, checkpoint_steps=1))
    training.save(tmp_path)
    assert training.mid_epoch is None
    assert not (tmp_path / "mid_epoch.pt").exists()


def test_resumed_run_remembers_the_best_epoch(
    tiny_recipe: Recipe, train: ClassSubset, validation: ClassSubset, tmp_path: Path
) -> None:
    first = Training(tiny_recipe, train, validation, CPU)
    next(first.epochs())
    first.metrics["best_score"] = 2.0  # better than any epoch can be
    first.save(tmp_path)
    second = Training(tiny_recipe, train, validation, CPU)
    second.load(tmp_path)
    last = next(second.epochs())
    assert (last["best_score"], last["best_epoch"]) == (2.0, 1)


def test_loss_that_is_no_number_stops_the_run(tiny_recipe: Recipe, train: ClassSubset) -> None:
    training = Training(tiny_recipe, train, None, CPU)
    with torch.no_grad():
        training.objective.metric_loss.proxies.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match=r"epoch 1 at learning rate 0\.001"):
        next(training.epochs())
    assert training.epoch == 0


def test_learning_rate_far_too_high_stops_the_run(tiny_recipe: Recipe, train: ClassSubset) -> None:
    training = Training(tiny_recipe.model_copy(update={"lr": 1e30, "warm_epochs": 0}), train, None, CPU)
    with pytest.raises(TrainingDiverged, match=r"lower the rate"):
        list(training.epochs())


@pytest.mark.integration
def test_training_tells_the_classes_apart(tiny_recipe: Recipe, train: ClassSubset) -> None:
    """Ten epochs lower the full path's loss on the training images by a sixth or more."""
    changes = {"epochs": 10, "schedule": CosineDecay()}
    training = Training(tiny_recipe.model_copy(update=changes), train, None, CPU)
    losses = [metrics["loss_full"] for metrics in training.epochs()]
    assert losses[-1] < losses[0] * 5 / 6


def test_augmenting_in_other_processes_changes_nothing(
    tiny_recipe: Recipe, train: ClassSubset, validation: ClassSubset, undisturbed: Undisturbed
) -> None:
    before, workers = multiprocessing.active_children(), []
    training = Training(tiny_recipe, train, validation, CPU, loader_workers=1)
    for metrics, expected in zip(training.epochs(), undisturbed[0], strict=True):
        assert numbers(metrics) == pytest.approx(numbers(expected))
        workers.append(multiprocessing.active_children())
    # One process for all epochs, in training and in validation.
    assert [len(found) - len(before) for found in workers] == [1, 1, 1]
    assert workers[0] == workers[1] == workers[2]
    assert multiprocessing.active_children() == before


def test_processes_end_with_a_run_that_diverges(tiny_recipe: Recipe, train: ClassSubset) -> None:
    before = multiprocessing.active_children()
    training = Training(tiny_recipe, train, None, CPU, loader_workers=1)
    with torch.no_grad():
        training.objective.metric_loss.proxies.fill_(torch.nan)
    with pytest.raises(TrainingDiverged) as raised:
        next(training.epochs())
    # The error refers to frames that refer to batches.
    assert raised.tb is not None
    assert multiprocessing.active_children() == before


def test_embeddings_are_the_models_in_the_order_of_the_subset(tiny_recipe: Recipe, test_images: ShardedImages) -> None:
    subset = subset_of_classes(test_images)
    training = Training(tiny_recipe, subset, None, CPU)
    embeddings = training.embed(subset)
    assert embeddings.shape == (12, 96)
    expected = training.model.embed([test_images.image(int(row)) for row in subset.rows])
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_embedding_takes_any_function_of_images(tiny_recipe: Recipe, test_images: ShardedImages) -> None:
    subset = subset_of_classes(test_images)
    normalization = Training(tiny_recipe, subset, None, CPU).model.normalization
    loader = Loader(tiny_recipe, [subset])
    means = embed(lambda images: images.mean(dim=(2, 3)), subset, normalization, CPU, loader)
    assert means.shape == (12, 3)
