"""Trials under Ray Tune, each trained by Ray Train: workers, checkpoints, losses, and the record that is written as they go."""
