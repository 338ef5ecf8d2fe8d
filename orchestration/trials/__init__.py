"""Trials under Ray Tune, each trained by Ray Train: workers, checkpoints, restarts, records."""
