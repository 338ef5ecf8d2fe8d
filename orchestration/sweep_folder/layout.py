"""The names of the files in a sweep's folder, `<storage>/<name>/`.

sweep.json              arguments, search space, versions
lease.json              while run_sweep.py runs: its machine, its process and its last heartbeat
elapsed.json            the seconds for which the search has run
driver.log              messages of the driver, of Ray and of other libraries, of all sessions
study.log               all trials, for optuna-dashboard
wandb/                  files of Weights & Biases, unless the sweep is on S3
tune/                   Ray Tune's own files: results as TensorBoard and JSON, errors
trials/000/ …           one folder per trial: its record, from which an interrupted sweep resumes,
                        its best and last checkpoint, in mid_epoch/ checkpoints within an epoch,
                        and memory.json if memory ran out: less of it for the next workers
trials/winner/, winner-1/ …   the winner's runs on all training classes, one per seed, with the
                        result of each in outcome.json
trials/*/test_evaluations.json   the number of times that the run was scored on the test classes
best/                   the model: model.safetensors, config.json, README.md
report/                 results.json, index.html, all charts as PNG and all numbers as CSV
"""

from __future__ import annotations

import re

from dfml.errors import InvalidInput

# Parts of a URI that pyarrow and boto3 read alike.
BUCKET = re.compile(r"[A-Za-z0-9._-]+")
FOLDER = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")

SWEEP = "sweep.json"
LEASE = "lease.json"
DRIVER_LOG = "driver.log"
ELAPSED = "elapsed.json"
STUDY = "study.log"
TUNE = "tune"
TRIALS = "trials"
WINNER = "winner"
OUTCOME = "outcome.json"
TEST_EVALUATIONS = "test_evaluations.json"
MID_EPOCH = "mid_epoch"
MEMORY = "memory.json"
BEST = "best"
REPORT = "report"
RESULTS = "results.json"
PAGE = "index.html"


def check_uri(uri: str) -> None:
    """Check that boto3, and pyarrow, through which Ray writes, read a URI on S3 alike.

    pyarrow decodes URIs: `#` ends a URI and `%20` is a space, so Ray would write and delete files
    in another location. A local folder may have any name.

    Raises:
        InvalidInput: they don't; the message names the part.
    """
    if "://" not in uri:
        return
    bucket, *folders = uri.partition("://")[2].rstrip("/").split("/")
    if not bucket:
        raise InvalidInput(f"{uri!r} names no bucket; give s3://bucket/folder")
    for part, allowed in ((bucket, BUCKET), *((folder, FOLDER) for folder in folders)):
        if not allowed.fullmatch(part) or part in (".", ".."):
            raise InvalidInput(
                f"a sweep can't be stored at {uri!r}: Ray would read {part!r} in it as another location; in --storage "
                "s3://… and --name use letters, digits and - _ . ~ ! $ & ' ( ) * + , ; = : @ (in a bucket's name "
                "letters, digits and - _ .)"
            )


def trial_folder(number: int) -> str:
    """Return the name of a trial's folder, such as 007."""
    return f"{number:03d}"


def winner_folder(number: int) -> str:
    """Return the name of the folder of a winner's run: winner, winner-1 and so on."""
    return WINNER if number == 0 else f"{WINNER}-{number}"
