"""Placement groups whose trial was killed: Ray keeps them for as long as the sweep's driver lives, so that no later trial finds room."""

from __future__ import annotations

import ray
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group


def remove_orphans() -> int:
    """Remove this driver's placement groups whose creator, a trial's process, is dead; returns how many.

    Ray's state API tells the same, but asks the dashboard, and takes longer.
    """
    accessor = state._connect_and_get_accessor()
    job = ray.get_runtime_context().get_job_id()
    removed = 0
    for content in accessor.get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(content)
        by_trial = group.creator_actor_id and not ray.ActorID(group.creator_actor_id).is_nil()  # else Tune's own
        ours = group.creator_job_id.hex() == job and by_trial
        if ours and group.state != gcs_pb2.PlacementGroupTableData.REMOVED and group.creator_actor_dead:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            removed += 1
    return removed
