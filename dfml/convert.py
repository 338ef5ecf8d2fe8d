"""`python -m dfml.convert`: pretrained weights of a ViT or DeiT to the factorized layout of the publication's code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dfml.command_line import Parser, exit_code
from dfml.errors import InvalidInput
from dfml.pretrained import read_weights, write_weights
from dfml.published_layout import State, routers_in, to_published


def convert(state: State, routers: int) -> State:
    """A dense ViT's state in the published layout.

    Raises:
        InvalidInput: it isn't a ViT's, is factorized already, or K doesn't divide its heads and hidden units.
    """
    if routers_in(state) is not None:
        raise InvalidInput(
            "these weights are factorized already: give timm's, such as deit_small_distilled_patch16_224"
        )
    if "blocks.0.attn.qkv.weight" not in state or "blocks.0.mlp.fc1.weight" not in state:
        raise InvalidInput(
            "these weights hold no blocks.0.attn.qkv and blocks.0.mlp.fc1: give those of a timm ViT or DeiT"
        )
    width, hidden = state["blocks.0.attn.qkv.weight"].shape[1], len(state["blocks.0.mlp.fc1.weight"])
    # A state doesn't say how many heads it has; 64 channels a head is what all of ViT's and DeiT's sizes have.
    heads = width // 64
    allowed = [k for k in range(1, heads + 1) if heads % k == 0 and hidden % k == 0]
    if routers not in allowed:
        raise InvalidInput(
            f"--routers {routers} doesn't divide the {heads} heads and {hidden} hidden units of these weights; those that do: "
            f"{', '.join(map(str, allowed))}"
        )
    return to_published(state, routers)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for input that can't be used."""
    parser = Parser(prog="python -m dfml.convert", description=__doc__)
    parser.add_argument(
        "--input", type=Path, required=True, metavar="FILE", help="timm's weights, .pth or .safetensors"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="where the factorized ones go, .pth or .safetensors"
    )
    parser.add_argument("--routers", type=int, default=3, metavar="K", help="sub-blocks a block")

    def work() -> None:
        arguments = parser.parse_args(argv)
        state = convert(read_weights(arguments.input), arguments.routers)
        write_weights(arguments.output, state)
        print(f"{arguments.output}: {len(state)} tensors, each block in {arguments.routers} sub-blocks")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
