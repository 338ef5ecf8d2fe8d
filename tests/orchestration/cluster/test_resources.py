"""The allocation of a cluster to trials: each node's capacity counts, not the sum of all."""

from __future__ import annotations

from typing import Any

import pytest

from dfml.errors import InvalidInput
from orchestration.cluster.capacity import HERE, Limits, Nodes, grown, limits_of
from orchestration.cluster.resources import IMAGES_PER_GPU, Demand, TrialResources, allocate

LAPTOP = [Nodes(HERE, 1, 8, 0)]
HEAD = Nodes(HERE, 1, 0, 0)
CPU_HEAD = Nodes(HERE, 1, 64, 0)
ONE_GPU = Nodes(HERE, 1, 16, 1)
FOUR_GPUS = Nodes(HERE, 1, 32, 4)
SPOT = Limits((Nodes("gpu", 8, 8, 1),), 8)


def shared(nodes: list[Nodes], limits: Limits | None = None, **demand: Any) -> TrialResources:
    """Divide a cluster among 20 trials, unless told otherwise."""
    return allocate(nodes, limits or Limits(), Demand(**{"trials": 20, "batch_size": 120, **demand}))


def test_without_gpus_one_trial_gets_all_cores() -> None:
    assert shared(LAPTOP, workers=2) == TrialResources(workers=2, cpus=4, gpus=0, concurrent=1, min_workers=2)


def test_with_gpus_as_many_trials_run_as_fit_and_share_the_cores() -> None:
    assert shared([HEAD, FOUR_GPUS], workers=2) == TrialResources(
        workers=2, cpus=8, gpus=1, concurrent=2, min_workers=2
    )


def test_a_cluster_that_may_grow_is_divided_as_large_as_it_may_become() -> None:
    assert shared([HEAD], SPOT, workers=2) == TrialResources(workers=2, cpus=8, gpus=1, concurrent=4, min_workers=2)


def test_nodes_that_are_there_already_are_not_counted_twice() -> None:
    assert grown([HEAD, Nodes(HERE, 1, 8, 1)], SPOT) == [HEAD, Nodes("gpu", 8, 8, 1)]
    assert grown([HEAD, FOUR_GPUS], SPOT) == [HEAD, FOUR_GPUS, Nodes("gpu", 8, 8, 1)]


def test_all_types_together_stay_below_the_limit_of_the_whole() -> None:
    limits = Limits((Nodes("small", 8, 8, 1), Nodes("large", 2, 32, 4)), 3)
    assert grown([HEAD], limits) == [HEAD, Nodes("large", 2, 32, 4), Nodes("small", 1, 8, 1)]


def test_a_worker_gets_what_one_node_has_not_what_all_have_together() -> None:
    # Nodes of 3, 3 and 2 cores hold three workers with two cores each, or two with three each.
    nodes = [Nodes(HERE, 1, 3, 0), Nodes(HERE, 1, 3, 0), Nodes(HERE, 1, 2, 0)]
    assert shared(nodes, workers=3).cpus == 2
    assert shared(nodes, workers=2).cpus == 3
    # Four GPUs on a node with two cores hold two workers.
    with pytest.raises(InvalidInput, match="give at most 2 or use a larger cluster"):
        shared([Nodes(HERE, 1, 2, 4), CPU_HEAD], workers=3)


def test_trials_at_once_are_the_users_choice_within_the_room() -> None:
    assert shared(LAPTOP, workers=2, concurrent=4) == TrialResources(2, 1, 0, 4, 2)
    assert shared([FOUR_GPUS], workers=1, concurrent=2).cpus == 16
    with pytest.raises(InvalidInput, match=r"--concurrent-trials 5 with 2 worker\(s\) each is more .* give 1 to 4"):
        shared(LAPTOP, workers=2, concurrent=5)


@pytest.mark.parametrize(
    ("nodes", "demand", "workers", "concurrent", "cpus", "reason"),
    [
        ([Nodes(HERE, 1, 1, 0)], {}, 1, 1, 1, "there is room for one worker"),
        (LAPTOP, {}, 2, 1, 4, "2 workers are the default without GPUs"),
        ([ONE_GPU], {}, 1, 1, 16, "there is room for one worker"),
        ([CPU_HEAD, ONE_GPU], {}, 1, 1, 16, "there is room for one worker"),
        ([Nodes(HERE, 1, 1, 4)], {}, 1, 1, 1, "there is room for one worker"),
        ([FOUR_GPUS], {}, 1, 4, 8, "one GPU per trial, as there are 20 trial(s) for 4 usable GPUs"),
        ([FOUR_GPUS], {"trials": 4}, 1, 4, 8, "one GPU per trial, as there are 4 trial(s) for 4 usable GPUs"),
        ([CPU_HEAD, FOUR_GPUS, ONE_GPU], {}, 1, 5, 8, "one GPU per trial, as there are 20 trial(s) for 5 usable GPUs"),
        # Fewer trials than GPUs
        ([FOUR_GPUS], {"trials": 3}, 1, 3, 10, "4 usable GPUs are divided among 3 trial(s) at once"),
        ([FOUR_GPUS], {"trials": 2}, 2, 2, 8, "4 usable GPUs are divided among 2 trial(s) at once"),
        ([FOUR_GPUS], {"trials": 1}, 4, 1, 8, "4 usable GPUs are divided among 1 trial(s) at once"),
        ([FOUR_GPUS], {"concurrent": 2}, 2, 2, 8, "4 usable GPUs are divided among 2 trial(s) at once"),
        # A batch that is too small for all of them
        ([FOUR_GPUS], {"trials": 1, "batch_size": 3 * IMAGES_PER_GPU}, 3, 1, 10, "a batch of 72 images would leave"),
        ([FOUR_GPUS], {"trials": 1, "batch_size": IMAGES_PER_GPU - 1}, 1, 1, 32, "a batch of 23 images would leave"),
        # One GPU per node; then three nodes, on which four trials of three workers don't all fit
        ([ONE_GPU] * 4, {"trials": 2}, 1, 2, 16, "a trial would span nodes"),
        ([FOUR_GPUS] * 3, {"trials": 4}, 2, 4, 8, "a trial would span nodes"),
        # The winner's runs can't be more workers, but more at once.
        ([FOUR_GPUS], {"trials": 1, "runs": 5, "batch_size": 24}, 1, 4, 8, "a batch of 24 images"),
    ],
)
def test_workers_that_are_not_asked_for_are_as_many_as_fit_and_pay(
    nodes: list[Nodes], demand: dict[str, Any], workers: int, concurrent: int, cpus: int, reason: str
) -> None:
    found = shared(nodes, **demand)
    gpus = float(any(node.gpus for node in nodes))
    assert found == TrialResources(workers, cpus, gpus, concurrent, workers)
    assert reason in found.reason


def test_a_cluster_without_a_gpu_yet_is_planned_for_those_that_it_may_get() -> None:
    """With one GPU per node, a trial that had several would start more nodes and wait for them."""
    found = shared([HEAD], SPOT)
    assert found == TrialResources(workers=1, cpus=8, gpus=1, concurrent=8, min_workers=1)
    assert "one GPU per trial, as there are 20 trial(s) for 8 usable GPUs" in found.reason
    assert shared([HEAD], SPOT, trials=2) == TrialResources(workers=1, cpus=8, gpus=1, concurrent=2, min_workers=1)
    # The cores of a head without a GPU don't count.
    assert shared([CPU_HEAD], SPOT).cpus == 8


def test_the_reason_tells_who_chose_the_number() -> None:
    assert shared([FOUR_GPUS], workers=2).reason == "as --workers-per-trial says"
    assert shared([FOUR_GPUS], workers=2, begun=True).reason == "as when the sweep was begun"
    assert "--workers-per-trial changes it" in shared([FOUR_GPUS]).reason
    assert "--workers-per-trial" not in shared([ONE_GPU]).reason  # no other number fits


@pytest.mark.parametrize(
    ("nodes", "share", "concurrent", "cpus"),
    [
        ([ONE_GPU], 0.5, 2, 8),
        ([ONE_GPU], 0.3, 3, 5),
        ([ONE_GPU], 0.3333, 3, 5),
        ([ONE_GPU], 0.6, 1, 16),
        ([Nodes(HERE, 1, 16, 2)], 0.6, 2, 8),  # no worker gets parts of two GPUs
        ([FOUR_GPUS], 0.1, 20, 1),
        ([Nodes(HERE, 1, 3, 1)], 0.1, 3, 1),  # each worker needs a core too
    ],
)
def test_trials_of_one_worker_may_share_a_gpu(nodes: list[Nodes], share: float, concurrent: int, cpus: int) -> None:
    found = shared(nodes, gpus_per_worker=share)
    assert found == TrialResources(workers=1, cpus=cpus, gpus=share, concurrent=concurrent, min_workers=1)
    assert concurrent == 1 or "of another trial" in found.reason


def test_a_part_of_a_gpu_is_refused_if_there_is_none() -> None:
    with pytest.raises(InvalidInput, match=r"--gpus-per-worker 0.5 .* no GPU \(it has 8 CPU cores\); leave it out"):
        shared(LAPTOP, gpus_per_worker=0.5)


def test_a_free_part_of_a_gpu_has_room_for_a_worker_that_needs_no_more() -> None:
    assert Nodes(HERE, 1, 4, 0.5).workers_per_node(1, 0.5) == 1
    assert Nodes(HERE, 1, 4, 0.4).workers_per_node(1, 0.5) == 0
    assert Nodes(HERE, 1, 4, 1.5).workers_per_node(1, 0.5) == 3
    assert Nodes(HERE, 1, 4, 0.5).workers_per_node(1, 1) == 0


def test_workers_that_are_not_asked_for_need_one_core_all_the_same() -> None:
    with pytest.raises(
        InvalidInput, match=r"even one worker is more than .*: it has 0 CPU cores, and each worker takes a core"
    ):
        shared([HEAD])
    with pytest.raises(InvalidInput, match=r"it has 4 GPUs and 64 CPU cores on 2 nodes, .* a core of the same node"):
        shared([CPU_HEAD, Nodes(HERE, 1, 0, 4)])


def test_an_elastic_trial_needs_its_fewest_workers_only() -> None:
    assert shared([FOUR_GPUS], workers=8, min_workers=2) == TrialResources(8, 8, 1, 1, 2)
    with pytest.raises(InvalidInput, match="--min-workers 5 is more than the cluster can place"):
        shared([FOUR_GPUS], workers=8, min_workers=5)
    with pytest.raises(InvalidInput, match=r"--min-workers 3 isn't between 1 and the 2 worker\(s\) of a trial"):
        shared([FOUR_GPUS], workers=2, min_workers=3)
    with pytest.raises(InvalidInput, match=r"the 1 worker\(s\) of a trial; .*, or another --workers-per-trial"):
        shared([FOUR_GPUS], min_workers=2)


def test_what_can_never_be_placed_is_refused_with_what_the_cluster_may_become() -> None:
    with pytest.raises(
        InvalidInput, match=r"--workers-per-trial 9 is more .* can grow to 8 GPUs and 64 CPU cores on 9 nodes"
    ):
        shared([HEAD], SPOT, workers=9)
    with pytest.raises(InvalidInput, match="it has 0 CPU cores"):
        shared([HEAD], workers=1)


def test_a_sweep_that_was_begun_with_more_workers_may_continue_with_fewer() -> None:
    """Its number of workers is part of its plan, so `--workers-per-trial 1` would be refused."""
    with pytest.raises(
        InvalidInput,
        match=r"begun with 4 workers per trial, .* it has 1 GPU and 16 CPU cores, .* or add --min-workers 1 to",
    ):
        shared([ONE_GPU], workers=4, begun=True)
    assert shared([ONE_GPU], workers=4, begun=True, min_workers=1) == TrialResources(4, 16, 1, 1, 1)


def test_the_autoscalers_file_is_read_without_the_head_and_without_types_of_unknown_size() -> None:
    config = {
        "max_workers": 3,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 4}},
            "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 2},
            "any": {"resources": {"CPU": 8}},
            "own": {"resources": {}},
        },
    }
    assert limits_of(config) == Limits((Nodes("gpu", 2, 8, 1), Nodes("any", 3, 8, 0)), 3)
