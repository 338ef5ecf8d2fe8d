"""Count the FLOPs that routed inference saves, by factorized blocks and number of sub-blocks K.

    python benchmarks/flops.py [--backbone vit_base_patch16_224] [--sub-blocks 2 3 4 6]

For each K the last n blocks are factorized, n = 1 … all, and torch's counter counts the FLOPs of
one image's routed pass. Routers start at random; in a ViT their choices hardly change the count.
Print a Markdown table and write flops.json next to this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from dfml.evaluate.flops import count_flops
from dfml.factorized import allowed_sub_block_counts, factorize
from dfml.pretrained import create_backbone


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--sub-blocks", dest="num_sub_blocks", type=int, nargs="+", default=[2, 3, 4, 6])
    parser.add_argument(
        "--saving", type=float, default=0.24, help="share of the FLOPs to save (default: the publication's)"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = create_backbone(arguments.backbone, "random", arguments.image_size).eval()
    images = torch.randn(1, 3, arguments.image_size, arguments.image_size)
    dense = count_flops(lambda: model(images))
    depth = len(factorize(model, 1).blocks)
    allowed = allowed_sub_block_counts(model)
    num_sub_blocks = [k for k in arguments.num_sub_blocks if k in allowed]
    saved: dict[int, list[float]] = {}
    for k in num_sub_blocks:
        saved[k] = []
        for n in range(1, depth + 1):
            backbone = factorize(model, k, blocks=range(depth - n, depth)).eval()
            saved[k].append(1 - count_flops(lambda routed=backbone: routed(images, "routed")) / dense)
    print(
        f"{arguments.backbone}, {arguments.image_size} px: {dense / 1e9:.2f} GFLOPs per image; "
        "FLOPs saved by routed inference\n"
    )
    print("| blocks factorized | " + " | ".join(f"K={k}" for k in num_sub_blocks) + " |")
    print("| --- |" + " ---: |" * len(num_sub_blocks))
    for n in range(1, depth + 1):
        cells = []
        for k in num_sub_blocks:
            nearest = min(saved[k], key=lambda share: abs(share - arguments.saving)) == saved[k][n - 1]
            cells.append(f"**{saved[k][n - 1]:.1%}**" if nearest else f"{saved[k][n - 1]:.1%}")
        first = depth - n
        print(f"| {first}-{depth - 1} ({n}) | " + " | ".join(cells) + " |")
    print(f"\nBold: nearest to {arguments.saving:.0%} for that K.")
    content = {**vars(arguments), "dense_flops": dense, "saved": saved}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
