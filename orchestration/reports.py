"""The keys of what a trial reports to Tune beside an epoch's figures."""

FIGURES = "figures"  # names of the figures: Tune adds keys of its own on the way
WORKERS = "workers"  # so many have started; 0: those that there were have ended
LOST = "lost"  # why they had to be started anew; None the first time
FAILED = "failed"  # why the trial ends without another try
UNFIT = "unfit"  # whether it failed by its own configuration, and not for want of machines
WORKER_SECONDS = "worker_seconds"  # for which workers were held since the report before
S3_BYTES = "s3_bytes"  # fetched by all workers since the report before; in a worker's own report, since it started
RESUMED = "resumed"  # of an epoch that was reported before, by the workers that go on after it
