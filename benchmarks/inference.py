"""Compare routed inference with a dense forward pass: wall time and FLOPs.

    python benchmarks/inference.py [--backbone vit_small_patch16_224] [--image-size 224]
        [--batch 16] [--sub-blocks 3]

The passes take turns in one process; torch's counter counts the FLOPs. Routers start at random,
which spreads tokens about evenly. Print one table and write inference.json next to this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dfml.evaluate.flops import count_flops
from dfml.factorized import factorize
from dfml.pretrained import create_backbone


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sub-blocks", dest="num_sub_blocks", type=int, default=3)
    parser.add_argument("--passes", type=int, default=16, help="timed passes of each kind, after one untimed pass")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dense = create_backbone(arguments.backbone, "random", arguments.image_size).eval()
    backbone = factorize(dense, arguments.num_sub_blocks).eval()
    images = torch.randn(arguments.batch, 3, arguments.image_size, arguments.image_size)
    passes: dict[str, Callable[[], Tensor]] = {
        "dense timm": lambda: dense(images),
        "full path": lambda: backbone(images, "full"),  # type: ignore[dict-item, return-value]
        "routed path": lambda: backbone(images, "routed"),  # type: ignore[dict-item, return-value]
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(arguments.passes + 1):
        for name, run in passes.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    flops = {name: count_flops(run) for name, run in passes.items()}
    print(f"{arguments.backbone}, {arguments.image_size} px, batch {arguments.batch}, K={arguments.num_sub_blocks}, "
          f"{torch.get_num_threads()} threads, median of {arguments.passes} passes in turns")  # fmt: skip
    print(f"{'':12}  seconds   × dense (least to most)      GFLOPs/image   × dense")
    ratios = {}
    for name, found in seconds.items():
        of_dense = [a / b for a, b in zip(found, seconds["dense timm"], strict=True)]
        ratios[name] = statistics.median(of_dense)
        print(f"{name:12}  {statistics.median(found):7.3f}   "
              f"{ratios[name]:7.3f} ({min(of_dense):.3f} to {max(of_dense):.3f})"
              f"   {flops[name] / arguments.batch / 1e9:15.3f}   {flops[name] / flops['dense timm']:7.3f}")  # fmt: skip
    content = {
        **vars(arguments),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "ratios": ratios,
        "flops": flops,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
