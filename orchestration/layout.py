"""The names of what lies in a sweep's folder, `<storage>/<name>/`.

sweep.json              arguments, search space, versions: what the sweep is
tune/                   Ray Tune's own files: results as TensorBoard and JSON, errors
trials/000/ …           one folder a trial: its record, from which an interrupted sweep goes on, its best and last checkpoint, and
                        in unfinished/ how far a long epoch is
trials/winner/          the retraining of the winner
outcome.json            the winner's score on the test classes
test_evaluations.json   how often the test classes were looked at
best/                   the model: model.safetensors, config.json, README.md
report/                 results.json, trials.csv, retrievals.png, index.html
"""

SWEEP = "sweep.json"
TUNE = "tune"
TRIALS = "trials"
WINNER = "winner"
OUTCOME = "outcome.json"
TEST_EVALUATIONS = "test_evaluations.json"
BEST = "best"
REPORT = "report"
RESULTS = "results.json"


def trial_folder(number: int) -> str:
    return f"{number:03d}"
