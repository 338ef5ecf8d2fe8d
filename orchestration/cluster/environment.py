"""Settings that Ray reads from the driver's environment. Import this module before `ray`."""

import os

SETTINGS = {
    # Seconds between a Train controller's polls of its workers; reports wait for one (Ray: 2).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # `interruption` handles Ctrl-C: Tune's handler doesn't cover the winner's run or the clean-up.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Some reports of a trial have no score: the start of its workers, the reason for its end.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Turn Ray's progress tables off: `callbacks` prints its own.
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # pyarrow uploads checkpoints to S3; some servers other than AWS's reject its newer checksums.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    # Send no usage statistics unless the user wants to.
    "RAY_USAGE_STATS_ENABLED": "0",
}

for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
