"""The names of what lies in a sweep's folder, `<storage>/<name>/`.

sweep.json              arguments, search space, versions: what the sweep is
lease.json              while run_sweep.py runs: where, and that it is alive
elapsed.json            how long the search has run
study.log               all trials as optuna-dashboard opens them
wandb/                  the files of Weights & Biases, where the sweep's place is a folder
tune/                   Ray Tune's own files: results as TensorBoard and JSON, errors
trials/000/ …           one folder a trial: its record, from which an interrupted sweep goes on, its best and last checkpoint, and
                        in unfinished/ how far a long epoch is
trials/winner/, winner-1/ …   the winner's runs on all training classes, one for each seed, and in outcome.json what came of each
trials/*/test_evaluations.json   how often the run looked at the test classes
best/                   the model: model.safetensors, config.json, README.md
report/                 results.json, index.html, and beside it each figure as PNG and the numbers as CSV
"""

from __future__ import annotations

import re

from dfml.errors import InvalidInput

# Parts of a URI that pyarrow reads as boto3 does.
BUCKET = re.compile(r"[A-Za-z0-9._-]+")
FOLDER = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+")

SWEEP = "sweep.json"
LEASE = "lease.json"
ELAPSED = "elapsed.json"
STUDY = "study.log"
TUNE = "tune"
TRIALS = "trials"
WINNER = "winner"
OUTCOME = "outcome.json"
TEST_EVALUATIONS = "test_evaluations.json"
UNFINISHED = "unfinished"
BEST = "best"
REPORT = "report"
RESULTS = "results.json"
PAGE = "index.html"


def check_uri(place: str) -> None:
    """Check that a storage or a sweep on S3 is the same place for boto3 and for pyarrow, through which Ray writes.

    pyarrow decodes URIs: `#` ends one and `%20` is a space in it, so that Ray's files would lie, and be deleted, elsewhere.

    Raises:
        InvalidInput: names what can't be in it. A local folder may have any name.
    """
    if "://" not in place:
        return
    bucket, *folders = place.partition("://")[2].rstrip("/").split("/")
    if not bucket:
        raise InvalidInput(f"{place!r} names no bucket: give s3://bucket/folder")
    for part, allowed in ((bucket, BUCKET), *((folder, FOLDER) for folder in folders)):
        if not allowed.fullmatch(part) or part in (".", ".."):
            raise InvalidInput(
                f"a sweep can't lie at {place!r}: Ray would read {part!r} in it as another place. In --storage s3://… and --name use "
                "letters, digits and - _ . ~ ! $ & ' ( ) * + , ; = : @ (in a bucket's name letters, digits and - _ .)"
            )


def trial_folder(number: int) -> str:
    """Of a trial, which count from 0, or of a run of the winner, which count -1, -2, …: winner, winner-1, …"""
    if number >= 0:
        return f"{number:03d}"
    return WINNER if number == -1 else f"{WINNER}-{-1 - number}"


def trial_label(number: int) -> str:
    """What metrics call a trial, or a run of the winner: 3, winner, winner-1."""
    return str(number) if number >= 0 else trial_folder(number)
