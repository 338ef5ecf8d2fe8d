"""The publication's layout of weights: its sub-blocks add up to timm's model."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from dfml.convert import main
from dfml.embedding_model import build_model
from dfml.errors import InvalidInput
from dfml.recipe import recipe_from

DEIT = "deit_tiny_distilled_patch16_224"


@functools.cache
def deit() -> nn.Module:
    torch.manual_seed(3)
    model = timm.create_model(DEIT, img_size=32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def converted(
    tmp_path: Path, file: str = "in.pth", nested: bool = True, num_sub_blocks: int = 3, to: str = "out.pth"
) -> Path:
    state = deit().state_dict()
    if file.endswith(".safetensors"):
        save_file(state, tmp_path / file)
    else:
        torch.save({"model": state} if nested else state, tmp_path / file)
    out = tmp_path / "new" / to
    arguments = ["--input", str(tmp_path / file), "--output", str(out), "--routers", str(num_sub_blocks)]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="module")
def pth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the weights to a .pth file."""
    return converted(tmp_path_factory.mktemp("converted"))


def read(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize(("file", "nested"), [("in.pth", True), ("in.pth", False), ("in.safetensors", False)])
def test_sub_blocks_of_a_converted_file_add_up_to_the_dense_attention(tmp_path: Path, file: str, nested: bool) -> None:
    """Each sub-block is run as in the publication's code: its own qkv, one head of 64, and proj."""
    state, block = read(converted(tmp_path, file, nested)), deit().blocks[1]
    x = torch.randn(2, 6, 192)
    total = torch.zeros_like(x)
    for k in (1, 2, 3):
        qkv = F.linear(x, state[f"blocks.1.attn.qkv{k}.weight"], state[f"blocks.1.attn.qkv{k}.bias"])
        q, key, v = qkv.split(64, dim=-1)
        o = torch.softmax(q @ key.transpose(1, 2) / 8, dim=-1) @ v
        total += F.linear(o, state[f"blocks.1.attn.proj{k}.weight"], state[f"blocks.1.attn.proj{k}.bias"])
    torch.testing.assert_close(total, block.attn(x), rtol=1e-4, atol=1e-4)
    total = torch.zeros_like(x)
    for k in (1, 2, 3):
        h = F.gelu(F.linear(x, state[f"blocks.1.mlp{k}.fc1.weight"], state[f"blocks.1.mlp{k}.fc1.bias"]))
        total += F.linear(h, state[f"blocks.1.mlp{k}.fc2.weight"], state[f"blocks.1.mlp{k}.fc2.bias"])
    torch.testing.assert_close(total, block.mlp(x), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_model_of_a_converted_file_is_timms(pth: Path) -> None:
    recipe = recipe_from({"backbone": DEIT, "weights": str(pth), "image_size": 32})
    images = torch.randn(2, 3, 32, 32)
    expected = deit().forward_head(deit().forward_features(images), pre_logits=True)
    torch.testing.assert_close(build_model(recipe).eval().backbone(images), expected, rtol=1e-4, atol=1e-4)


def test_output_is_written_in_the_format_its_ending_says(tmp_path: Path) -> None:
    safe, pickled = load_file(converted(tmp_path, to="out.safetensors")), read(converted(tmp_path))
    assert safe.keys() == pickled.keys()
    assert all(torch.equal(safe[name], pickled[name]) for name in safe)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out.pth", "out.safetensors"]


def test_trained_file_of_the_publication_keeps_its_biases_and_routers(pth: Path, tmp_path: Path) -> None:
    state, path = read(pth), tmp_path / "trained.pth"
    state["blocks.0.attn.gate.weight"], state["blocks.0.gate.weight"] = torch.randn(3, 192), torch.randn(3, 192)
    state["blocks.0.mlp2.fc2.bias"] += 1.0
    torch.save({"model_state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    block = build_model(recipe_from({"backbone": DEIT, "weights": str(path), "image_size": 32})).backbone.blocks[0]
    assert torch.equal(block.attn_router.weight, state["blocks.0.attn.gate.weight"])
    assert torch.equal(block.mlp_router.weight, state["blocks.0.gate.weight"])
    for k in (1, 2, 3):
        assert torch.equal(block.mlp_sum.bias[k - 1], state[f"blocks.0.mlp{k}.fc2.bias"])
        assert torch.equal(block.attn_sum.bias[k - 1], state[f"blocks.0.attn.proj{k}.bias"])


def test_another_number_of_sub_blocks_than_the_recipes_is_refused(pth: Path) -> None:
    recipe = recipe_from({"backbone": DEIT, "weights": str(pth), "image_size": 32, "num_sub_blocks": 1})
    with pytest.raises(InvalidInput, match="has 3 sub-blocks per block, not 1; set num_sub_blocks to 3"):
        build_model(recipe)


@pytest.mark.parametrize(
    ("content", "arguments", "reason"),
    [
        (None, [], "doesn't|don't exist"),
        ({"model": {"fc.weight": torch.zeros(2, 2)}}, [], "give the weights of a timm ViT or DeiT"),
        ("deit", ["--routers", "2"], r"doesn't divide the 3 heads .*: 1, 3"),
        ("converted", [], "factorized already"),
    ],
)
def test_input_that_can_not_be_converted_is_refused_and_nothing_written(
    content: object, arguments: list[str], reason: str, pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.pth", tmp_path / "sub" / "x.pth"
    if content == "converted":
        source = pth
    elif content is not None:
        torch.save({"model": deit().state_dict()} if content == "deit" else content, source)
    assert main(["--input", str(source), "--output", str(out), *arguments]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert re.search(reason, captured)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("output", "reason"),
    [("out.bin", r"ending '\.bin'"), ("in.pth/out.pth", "can't be written")],
    ids=["ending", "folder"],
)
def test_output_that_cannot_be_written_is_refused(
    output: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": deit().state_dict()}, tmp_path / "in.pth")
    assert main(["--input", str(tmp_path / "in.pth"), "--output", str(tmp_path / output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(reason, error)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
