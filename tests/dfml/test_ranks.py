"""Two and four real processes over gloo compute what one process does on the whole batch."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dfml.data.streaming.sharded_images import ShardedImages
from dfml.data.streaming.split import subset_of_classes
from dfml.distributed import gather, mean_over_ranks, rank, world_size
from dfml.embedding_model import build_model
from dfml.losses import CONSTANTS, MetricLossName
from dfml.metrics import retrieval_metrics
from dfml.objective import Objective
from dfml.recipe import Recipe, recipe_from
from dfml.train import Training
from tests import forked
from tests.epoch_metrics import flat

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")
IMAGES = 7  # four and three on two ranks; two, two, two and one on four
LOSSES = (*get_args(MetricLossName), "cross_entropy")
LABELS = torch.tensor([0, 1, 1, 3, 0, 3, 1])

VIT = {
    "backbone": "test_vit",
    "weights": "random",
    "image_size": 32,
    "num_sub_blocks": 2,
    "embedding_size": 8,
    "batch_size": IMAGES,
    # Large enough to reveal a wrong factor in any term.
    "routed_weight": 0.5,
    "embedding_reconstruction": 0.5,
    "stream_reconstruction": 0.05,
}


def objective(loss: str = "proxy_anchor") -> Objective:
    """Build the objective in float64, in which an error of 1e-5 reveals a wrong term."""
    torch.manual_seed(0)
    # Divides the batch; the labels below don't come from batches.
    pairs = {"images_per_class": IMAGES} if CONSTANTS[loss].pairs else {}
    values = {**VIT, "loss": loss, **pairs, "balance_weight": 0.2, "blocks": "0,3,5"}
    if loss == "cross_entropy":
        values["embedding_size"] = None
    return Objective(build_model(recipe_from(values), class_names="abcde"), classes=5).double().train()


def images() -> Tensor:
    return torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def points() -> tuple[Tensor, Tensor]:
    """Return 301 embeddings, which no two ranks share evenly, some of them alone in their class."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(60, (301,), generator=generator)
    return nn.functional.normalize(torch.randn(301, 16, generator=generator) + labels[:, None] / 20, dim=1), labels


def in_ranks(function: Callable[..., None], world: int, folder: Path, *arguments: object) -> list[dict[str, Any]]:
    """Run `function(number, folder, *arguments)` in processes, and return what each saved there."""
    call = (
        f"import sys; from tests.dfml import test_ranks as it; it.{function.__name__}(int(sys.argv[1]), *sys.argv[2:])"
    )
    words = [str(folder), *map(str, arguments)]
    processes = [forked.Popen([sys.executable, "-c", call, str(number), *words]) for number in range(world)]
    assert [process.wait(timeout=300) for process in processes] == [0] * world
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(world)]


def some_rows(rows: int) -> Tensor:
    return torch.arange(rows * 2, dtype=torch.float64).reshape(rows, 2)


def run_training(recipe: Recipe, packed: Path) -> tuple[list[dict[str, float]], Tensor]:
    subset = subset_of_classes(ShardedImages(packed, "train"), np.arange(5))
    validation = subset_of_classes(ShardedImages(packed, "test"))  # 12 images
    training = Training(recipe, subset, validation, CPU)
    metrics = [
        {name: value for name, value in flat(epoch).items() if "second" not in name} for epoch in training.epochs()
    ]
    odd = subset_of_classes(ShardedImages(packed, "test"), np.array([7]))  # 3 images over 2 ranks
    return metrics, training.embed(odd)


def short_steps(recipe: Recipe, packed: Path) -> Training:
    """Build a training with 3 steps per epoch, of 3 × 2 images."""
    recipe = recipe.model_copy(update={"batch_size": 6, "images_per_class": 2})
    return Training(recipe, subset_of_classes(ShardedImages(packed, "train"), np.arange(5)), None, CPU)


def wrapped_again(recipe: Recipe, packed: Path) -> list[bool]:
    """Return for each epoch but the first whether it has another wrapper than the one before."""
    training = short_steps(recipe.model_copy(update={"epochs": 4, "warm_epochs": 2}), packed)
    wrappers = [training.distributed() for _ in training.epochs()]
    assert all(isinstance(wrapper, DistributedDataParallel) for wrapper in wrappers)
    return [after is not before for before, after in itertools.pairwise(wrappers)]


def interrupted(recipe: Recipe, packed: Path, folder: Path) -> bool:
    """Train to the second step and leave its checkpoint in the folder."""
    training = short_steps(recipe, packed)

    class Stopped(Exception):
        pass

    def keep() -> None:
        if rank() == 0:
            training.save(folder / "mid_epoch")
        raise Stopped

    try:
        list(training.epochs(on_checkpoint=keep, checkpoint_steps=2))
    except Stopped:
        return True
    return False


def gradients_of_losses(number: int, folder: str, size: str) -> None:
    """Write for each loss the gradients that a rank computes on its share."""
    world = int(size)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=world)
    mine = slice(number, None, world)
    found = {}
    for loss in LOSSES:
        wrapped = DistributedDataParallel(objective(loss))
        wrapped(images()[mine], LABELS[mine])["loss"].backward()
        found[loss] = {name: parameter.grad for name, parameter in wrapped.module.named_parameters()}
    torch.save(found, Path(folder, f"{number}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_one_process() -> dict[str, dict[str, Tensor]]:
    """Return for each loss the gradients on the whole batch."""
    found = {}
    for loss in LOSSES:
        one = objective(loss)
        one(images(), LABELS)["loss"].backward()
        found[loss] = {name: parameter.grad for name, parameter in one.named_parameters()}
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_gradients_of_every_loss_are_those_of_one_process(
    world: int, of_one_process: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    """Proxies, margins, routers and backbone, with uneven shares."""
    ranks = in_ranks(gradients_of_losses, world, tmp_path, world)
    for loss in LOSSES:
        for name, truth in of_one_process[loss].items():
            for found in ranks:
                error = (found[loss][name] - truth).norm() / truth.norm().clamp_min(1e-12)
                assert float(error) < 1e-5, f"{loss}: {name}"


def work(number: int, folder: str, packed: str) -> None:
    """Do the work of one rank, and write its results."""
    recipe = recipe_from(RECIPE)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    found: dict[str, object] = {"world": (rank(), world_size())}

    local = some_rows(7)[number::2].requires_grad_()
    with torch.profiler.profile() as profiled:
        gathered = gather(local, 7)
    found["calls"] = {call.key: call.count for call in profiled.key_averages()}
    (gathered * some_rows(7).square()).sum().backward()
    found["gathered"], found["gathered gradient"] = gathered.detach(), local.grad
    found["one row"] = gather(some_rows(1)[number::2], 1)  # rank 1 has none
    found["labels"] = gather(LABELS[number::2], 7)
    found["mean"] = mean_over_ranks(torch.tensor([1.0 + number, 10.0]))

    wrapped = DistributedDataParallel(objective())
    terms = wrapped(images()[number::2], LABELS[number::2])
    found["terms"] = dict(zip(terms, mean_over_ranks(torch.stack([t.detach() for t in terms.values()])), strict=True))

    found["metrics"] = retrieval_metrics(*points(), recall_at=(1, 100))

    found["epochs"], found["embeddings"] = run_training(recipe, Path(packed))
    found["wrapped again"] = wrapped_again(recipe, Path(packed))
    found["interrupted"] = interrupted(recipe, Path(packed), Path(folder))
    torch.save(found, Path(folder, f"{number}.pt"))
    dist.destroy_process_group()


Found = list[dict[str, Any]]
RECIPE = {
    "backbone": "test_resnet",
    "weights": "random",
    "image_size": 32,
    "num_sub_blocks": 2,
    "batch_size": 9,  # 5 and 4 images
    "images_per_class": 3,
    "epochs": 2,
    "warm_epochs": 1,
    "lr": 1e-4,
}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return recipe_from(RECIPE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder to which the ranks write."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path, packed: Path) -> Found:
    """Return the results of each of two ranks."""
    return in_ranks(work, 2, folder, packed)


@pytest.fixture(scope="module")
def of_one(packed: Path, recipe: Recipe) -> tuple[list[dict[str, float]], Tensor]:
    """Return the results of training in one process."""
    return run_training(recipe, packed)


def test_ranks_know_themselves(ranks: Found) -> None:
    assert [found["world"] for found in ranks] == [(0, 2), (1, 2)]


def test_gather_restores_the_order_from_uneven_shares(ranks: Found) -> None:
    assert all(torch.equal(found["gathered"], some_rows(7)) for found in ranks)
    assert all(torch.equal(found["labels"], LABELS) for found in ranks)


def test_gather_takes_a_rank_without_rows(ranks: Found) -> None:
    assert all(torch.equal(found["one row"], some_rows(1)) for found in ranks)


def test_gather_sends_each_rank_the_gradient_of_its_rows_times_the_world_size(ranks: Found) -> None:
    whole = 2 * some_rows(7).square()
    for number, found in enumerate(ranks):
        assert torch.equal(found["gathered gradient"], whole[number::2])


def test_gather_is_one_transfer_and_reads_no_value(ranks: Found) -> None:
    for found in ranks:
        transfers = {name: count for name, count in found["calls"].items() if name.startswith("c10d::")}
        assert transfers == {"c10d::_allgather_base_": 1}
        assert "aten::_local_scalar_dense" not in found["calls"]


def test_metrics_of_shares_are_those_of_the_whole(ranks: Found) -> None:
    expected = retrieval_metrics(*points(), recall_at=(1, 100))
    assert 0 < expected["recall_at_1"] < 1
    for found in ranks:
        assert found["metrics"] == pytest.approx(expected, abs=1e-12)


def test_mean_over_ranks(ranks: Found) -> None:
    assert all(found["mean"].tolist() == [1.5, 10.0] for found in ranks)


def test_terms_for_the_log_are_those_of_one_process(ranks: Found) -> None:
    with torch.no_grad():
        expected = objective()(images(), LABELS)
    for found in ranks:
        torch.testing.assert_close(found["terms"], dict(expected), rtol=1e-9, atol=1e-12)


def test_training_gives_the_figures_of_one_process(ranks: Found, of_one: tuple[list[dict[str, float]], Tensor]) -> None:
    metrics, _ = of_one
    for found in ranks:
        assert found["epochs"][0] == pytest.approx(metrics[0], rel=1e-4)
        assert found["epochs"][1] == pytest.approx(metrics[1], rel=1e-2)


def test_the_model_is_wrapped_again_only_when_warm_up_ends(ranks: Found) -> None:
    assert all(found["wrapped again"] == [False, True, False] for found in ranks)


def test_one_process_goes_on_within_the_epoch_that_two_began(
    ranks: Found, packed: Path, recipe: Recipe, folder: Path
) -> None:
    assert all(found["interrupted"] for found in ranks)
    whole, resumed = (short_steps(recipe, packed) for _ in range(2))
    resumed.load(folder / "mid_epoch")
    assert resumed.mid_epoch is not None
    assert resumed.mid_epoch.step == 2
    expected, given = flat(next(whole.epochs())), flat(next(resumed.epochs()))
    for name, value in expected.items():
        if "second" not in name:
            assert given[name] == pytest.approx(value, rel=1e-3, abs=1e-3), name


def test_both_ranks_see_the_same_embeddings_in_the_order_of_the_subset(
    ranks: Found, of_one: tuple[list[dict[str, float]], Tensor]
) -> None:
    _, expected = of_one
    assert torch.equal(ranks[0]["embeddings"], ranks[1]["embeddings"])
    similarity = nn.functional.cosine_similarity(ranks[0]["embeddings"], expected)
    assert float(similarity.min()) > 0.999
    others = nn.functional.cosine_similarity(ranks[0]["embeddings"], expected.roll(1, 0))
    assert (others < similarity).all()
