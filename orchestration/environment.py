"""Settings that Ray reads from the environment of the driver. Import this before anything imports `ray`."""

import os

SETTINGS = {
    # How often a Train controller polls its workers, seconds; it also bounds how fast epochs can be reported (default 2).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # Ctrl-C is ours to handle (`interruption`): Tune's own handler doesn't know of the winner's run or of the clean-up.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial's reports aren't all of a score: workers that have started, a reason for its end.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ray's progress tables off: the console is ours.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Checkpoints go to S3 through pyarrow; servers other than AWS's don't all know the newer checksums of an upload.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    # Nothing is sent to anyone without the user's wish.
    "RAY_USAGE_STATS_ENABLED": "0",
}

for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
