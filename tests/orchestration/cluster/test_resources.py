"""The allocation of a cluster to trials: each node's capacity counts, not the sum of all."""

from __future__ import annotations

import pytest

from dfml.errors import InvalidInput
from orchestration.cluster.capacity import HERE, Limits, Nodes, grown, limits_of
from orchestration.cluster.resources import TrialResources, allocate

LAPTOP = [Nodes(HERE, 1, 8, 0)]
HEAD = Nodes(HERE, 1, 0, 0)
FOUR_GPUS = Nodes(HERE, 1, 32, 4)
SPOT = Limits((Nodes("gpu", 8, 8, 1),), 8)


def test_without_gpus_one_trial_gets_all_cores() -> None:
    assert allocate(LAPTOP, Limits(), 2) == TrialResources(workers=2, cpus=4, gpu=False, concurrent=1, min_workers=2)


def test_with_gpus_as_many_trials_run_as_fit_and_share_the_cores() -> None:
    assert allocate([HEAD, FOUR_GPUS], Limits(), 2) == TrialResources(
        workers=2, cpus=8, gpu=True, concurrent=2, min_workers=2
    )


def test_a_cluster_that_may_grow_is_divided_as_large_as_it_may_become() -> None:
    assert allocate([HEAD], SPOT, 2) == TrialResources(workers=2, cpus=8, gpu=True, concurrent=4, min_workers=2)


def test_nodes_that_are_there_already_are_not_counted_twice() -> None:
    assert grown([HEAD, Nodes(HERE, 1, 8, 1)], SPOT) == [HEAD, Nodes("gpu", 8, 8, 1)]
    assert grown([HEAD, FOUR_GPUS], SPOT) == [HEAD, FOUR_GPUS, Nodes("gpu", 8, 8, 1)]


def test_all_types_together_stay_below_the_limit_of_the_whole() -> None:
    limits = Limits((Nodes("small", 8, 8, 1), Nodes("large", 2, 32, 4)), 3)
    assert grown([HEAD], limits) == [HEAD, Nodes("large", 2, 32, 4), Nodes("small", 1, 8, 1)]


def test_a_worker_gets_what_one_node_has_not_what_all_have_together() -> None:
    # Nodes of 3, 3 and 2 cores hold three workers with two cores each, or two with three each.
    nodes = [Nodes(HERE, 1, 3, 0), Nodes(HERE, 1, 3, 0), Nodes(HERE, 1, 2, 0)]
    assert allocate(nodes, Limits(), 3).cpus == 2
    assert allocate(nodes, Limits(), 2).cpus == 3
    # Four GPUs on a node with two cores hold two workers.
    with pytest.raises(InvalidInput, match="give at most 2 or use a larger cluster"):
        allocate([Nodes(HERE, 1, 2, 4), Nodes(HERE, 1, 64, 0)], Limits(), 3)


def test_trials_at_once_are_the_users_choice_within_the_room() -> None:
    assert allocate(LAPTOP, Limits(), 2, concurrent=4) == TrialResources(2, 1, False, 4, 2)
    assert allocate([FOUR_GPUS], Limits(), 1, concurrent=2).cpus == 16
    with pytest.raises(InvalidInput, match=r"--concurrent-trials 5 with 2 worker\(s\) each is more .* give 1 to 4"):
        allocate(LAPTOP, Limits(), 2, concurrent=5)


@pytest.mark.parametrize(
    ("nodes", "workers", "gpu"),
    [
        ([Nodes(HERE, 1, 1, 0)], 1, False),
        (LAPTOP, 2, False),
        ([Nodes(HERE, 1, 8, 1)], 1, True),  # a workstation
        ([HEAD, Nodes(HERE, 1, 8, 1)], 1, True),
        ([FOUR_GPUS], 2, True),
        ([Nodes(HERE, 1, 1, 4)], 1, True),
    ],
)
def test_workers_that_are_not_asked_for_are_as_many_as_fit_up_to_two(
    nodes: list[Nodes], workers: int, gpu: bool
) -> None:
    resources = allocate(nodes, Limits(), None)
    assert (resources.workers, resources.min_workers, resources.gpu) == (workers, workers, gpu)


def test_workers_that_are_not_asked_for_need_one_core_all_the_same() -> None:
    with pytest.raises(
        InvalidInput, match="--workers-per-trial 1 is more than the cluster can place: it has 0 CPU cores"
    ):
        allocate([HEAD], Limits(), None)


def test_an_elastic_trial_needs_its_fewest_workers_only() -> None:
    assert allocate([FOUR_GPUS], Limits(), 8, min_workers=2) == TrialResources(8, 8, True, 1, 2)
    with pytest.raises(InvalidInput, match="--min-workers 5 is more than the cluster can place"):
        allocate([FOUR_GPUS], Limits(), 8, min_workers=5)
    with pytest.raises(InvalidInput, match="--min-workers 3 isn't between 1 and --workers-per-trial 2"):
        allocate([FOUR_GPUS], Limits(), 2, min_workers=3)


def test_what_can_never_be_placed_is_refused_with_what_the_cluster_may_become() -> None:
    with pytest.raises(
        InvalidInput, match=r"--workers-per-trial 9 is more .* can grow to 8 GPUs and 64 CPU cores on 9 nodes"
    ):
        allocate([HEAD], SPOT, 9)
    with pytest.raises(InvalidInput, match="it has 0 CPU cores"):
        allocate([HEAD], Limits(), 1)


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
