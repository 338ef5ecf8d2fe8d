"""`python -m dfml.convert`: convert weights of a ViT or DeiT to the published factorized layout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dfml.command_line import Parser, exit_code
from dfml.errors import InvalidInput
from dfml.pretrained import read_weights, write_weights
from dfml.published_layout import State, sub_blocks_in, to_published


def convert(state: State, num_sub_blocks: int) -> State:
    """Convert a dense ViT's state to the published layout.

    Raises:
        InvalidInput: the state isn't a ViT's, or is factorized already, or K doesn't divide its
            heads and hidden units.
    """
    if sub_blocks_in(state) is not None:
        raise InvalidInput(
            "these weights are factorized already; give timm's weights, such as deit_small_distilled_patch16_224"
        )
    if "blocks.0.attn.qkv.weight" not in state or "blocks.0.mlp.fc1.weight" not in state:
        raise InvalidInput(
            "these weights hold no blocks.0.attn.qkv and blocks.0.mlp.fc1; give the weights of a timm ViT or DeiT"
        )
    width, hidden = state["blocks.0.attn.qkv.weight"].shape[1], len(state["blocks.0.mlp.fc1.weight"])
    # A state doesn't hold the number of heads; all sizes of ViT and DeiT have 64 channels per head.
    heads = width // 64
    allowed = [k for k in range(1, heads + 1) if heads % k == 0 and hidden % k == 0]
    if num_sub_blocks not in allowed:
        raise InvalidInput(
            f"--sub-blocks {num_sub_blocks} doesn't divide the {heads} heads and {hidden} hidden units of these "
            f"weights; allowed: {', '.join(map(str, allowed))}"
        )
    return to_published(state, num_sub_blocks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; 2 means invalid input."""
    parser = Parser(prog="python -m dfml.convert", description=__doc__)
    parser.add_argument(
        "--input", type=Path, required=True, metavar="FILE", help="timm's weights, .pth or .safetensors"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the factorized weights, .pth or .safetensors"
    )
    parser.add_argument(
        "--sub-blocks",
        "--routers",
        dest="num_sub_blocks",
        type=int,
        default=3,
        metavar="K",
        help="sub-blocks per block",
    )

    def work() -> None:
        arguments = parser.parse_args(argv)
        state = convert(read_weights(arguments.input), arguments.num_sub_blocks)
        write_weights(arguments.output, state)
        print(f"{arguments.output}: {len(state)} tensors, each block in {arguments.num_sub_blocks} sub-blocks")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
