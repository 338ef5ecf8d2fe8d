"""Compare the retrieval metrics with the bare matrix products, at the size of SOP's test split.

    python benchmarks/metrics.py [--images 60502] [--width 384] [--classes 11316] [--rounds 3]

In each round the products and the metrics take turns in one process. Then NMI and F1 are timed
once. Embeddings are synthetic: classes are drawn around centers so that R@1 is neither 0 nor 1.
Print one table and write metrics.json next to this file.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from dfml.metrics import clustering_metrics, retrieval_metrics
from dfml.metrics.retrieval import CHUNK

RECALL_AT = (1, 10, 100, 1000)


def products(embeddings: Tensor) -> None:
    """Compute all cosines, chunk by chunk into the same memory, as any exact metric must."""
    memory = torch.empty(CHUNK, len(embeddings))
    for chunk in embeddings.split(CHUNK):
        torch.mm(chunk, embeddings.T, out=memory[: len(chunk)])


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60502)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--classes", type=int, default=11316)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-clustering", action="store_true", help="leave out NMI and F1")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    labels = torch.arange(arguments.images) % arguments.classes
    centers = torch.randn(arguments.classes, arguments.width)
    embeddings = F.normalize(centers[labels] + 2.2 * torch.randn(arguments.images, arguments.width), dim=1)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bare, ours, found = [], [], {}
    for _ in range(arguments.rounds):
        bare.append(seconds(lambda: products(embeddings)))
        ours.append(seconds(lambda: found.update(retrieval_metrics(embeddings, labels, recall_at=RECALL_AT))))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    print(f"{arguments.images} × {arguments.width}, {arguments.classes} classes, {torch.get_num_threads()} threads, "
          f"{arguments.rounds} rounds in turns")  # fmt: skip
    print(f"bare matrix products            {statistics.median(bare):8.1f} s")
    print(
        f"R@1/10/100/1000, RP and MAP@R   {statistics.median(ours):8.1f} s   "
        f"{statistics.median(ratios):.3f} × bare ({min(ratios):.3f} to {max(ratios):.3f})"
    )
    print(
        f"peak memory of the process      {peak / 2**20:8.2f} GiB, "
        f"{(peak - held) / 2**20:.2f} of it added after the embeddings were made"
    )
    if not arguments.no_clustering:
        clustering = seconds(lambda: found.update(clustering_metrics(embeddings, labels)))
        print(f"NMI and F1                      {clustering:8.1f} s")
        found["clustering_seconds"] = clustering
    print("  ".join(f"{name} {value:.4f}" for name, value in found.items()))
    content = {**vars(arguments), "bare": bare, "ours": ours, "ratios": ratios, "peak_kib": peak, "found": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
