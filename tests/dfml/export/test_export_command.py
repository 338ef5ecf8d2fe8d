"""`python -m dfml.export`: the exported file, run by its own runtime, against the model."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision import transforms

from dfml import storage
from dfml.embedding_model import EmbeddingModel, build_model
from dfml.export.__main__ import main
from dfml.export.exportable import Exportable, description
from dfml.export.formats import FORMATS, TRACED_BATCH
from dfml.export.parity import TOLERANCE, largest_difference, picture_like
from dfml.factorized import factorize
from dfml.recipe import recipe_from
from dfml.saved_model import load, save_model
from tests.dfml.conftest import TINY
from tests.dfml.factorized.backbones import BACKBONES, randomized
from tests.s3.locations import new_bucket, use
from tests.s3.servers import Server

ENDINGS = {"onnx": "onnx", "torch-export": "pt2"}


def saved(folder: Path, **changes: Any) -> EmbeddingModel:
    """Save and return a model without parameters of 0 or 1."""
    torch.manual_seed(0)
    model = build_model(recipe_from({**TINY, **changes}), class_names="abcde")
    randomized(model)
    save_model(folder, model, {})
    return model.eval()


def export(model: Path | str, out: Path | str, *more: str) -> int:
    return main(["--model", str(model), "--out", str(out), *more])


def run_file(file: Path, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the file's output for images and its description, without this project's code."""
    if file.suffix == ".onnx":
        session = importlib.import_module("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
        said = json.loads(session.get_modelmeta().custom_metadata_map["dfml"])
        (output,) = session.run([said["output"]["name"]], {said["input"]["name"]: images.numpy()})
        return torch.from_numpy(output), said
    extra = {"dfml.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    with torch.inference_mode():
        return program(images), json.loads(extra["dfml.json"])


FAMILIES = {"ViT, class token": 3, "DeiT, distilled": 3, "ResNet, bottlenecks": 2, "EfficientNet-Lite": 2}  # and K


@pytest.mark.integration
@pytest.mark.views
@pytest.mark.parametrize("kind", ENDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exported_for_any_batch(kind: str, family: str, tmp_path: Path) -> None:
    """The full path, i.e. the dense timm model, is exported, whichever path the recipe uses."""
    dense = BACKBONES[family]()
    recipe = recipe_from({**TINY, "embedding_size": 16, "inference": "routed"})
    model = EmbeddingModel(factorize(dense, FAMILIES[family]), recipe).eval()
    file = tmp_path / f"model.{ENDINGS[kind]}"
    exportable = Exportable(model).eval()
    FORMATS[kind].write(exportable, torch.zeros(TRACED_BATCH, 3, 32, 32), description(exportable, "0" * 64), file)
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 32, 32)
        found = run_file(file, images)[0]
        with torch.inference_mode():
            expected = F.normalize(model.head(dense(images)), dim=1)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.integration
@pytest.mark.views
@pytest.mark.parametrize("kind", ENDINGS)
def test_a_file_says_how_to_make_of_an_image_what_the_model_makes_of_it(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe compiles its blocks, which must not affect the export."""
    model = saved(tmp_path / "best", compile=True, test_size=48, test_crop=0.8, blocks="2-3")
    file = tmp_path / f"model.{ENDINGS[kind]}"
    with torch.compiler.set_stance("fail_on_recompile"):  # nothing is compiled, not even to compare
        assert export(tmp_path / "best", file, "--format", kind) == 0
    printed = capsys.readouterr().out.splitlines()
    image = Image.effect_noise((90, 70), 80).convert("RGB")
    how = run_file(file, torch.zeros(1, 3, 48, 48))[1]
    assert how == json.loads(printed[0])
    assert how["model_sha256"] == hashlib.sha256((tmp_path / "best" / "model.safetensors").read_bytes()).hexdigest()
    assert how["input"]["shape"] == ["batch", 3, 48, 48]
    steps = how["preprocessing"]
    as_said = transforms.Compose(
        [
            transforms.Resize(steps["resize_shorter_side"], transforms.InterpolationMode.BILINEAR, antialias=True),
            transforms.CenterCrop(steps["center_crop"]),
            transforms.Lambda(lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / steps["divide_by"]),
            transforms.Normalize(steps["mean"], steps["std"]),
        ]
    )
    with torch.compiler.set_stance("force_eager"):  # compiling would take most of the test's time
        expected = model.embed([image])
    torch.testing.assert_close(run_file(file, as_said(image)[None])[0], expected, rtol=0, atol=2e-5)
    assert printed[1].startswith(f"exported to {file}; largest difference from the model ")
    assert float(printed[1].split(" model ")[1].split()[0]) < TOLERANCE


@pytest.mark.integration
@pytest.mark.views
@pytest.mark.parametrize("kind", ENDINGS)
def test_a_classifier_gives_probabilities_of_the_classes_named(kind: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "best", loss="cross_entropy")
    file = tmp_path / f"model.{ENDINGS[kind]}"
    assert export(tmp_path / "best", file, "--format", kind) == 0
    images = torch.randn(3, 3, 32, 32)
    found, said = run_file(file, images)
    with torch.inference_mode():
        torch.testing.assert_close(found, F.softmax(model.logits(images, "full"), dim=1), rtol=0, atol=2e-5)
    assert said["output"] == {
        "name": "probabilities",
        "type": "float32",
        "shape": ["batch", 5],
        "class_names": list("abcde"),
    }


@pytest.mark.integration
@pytest.mark.views
def test_a_model_and_its_file_may_lie_on_s3(
    best: Path, tmp_path: Path, moto: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(moto, monkeypatch)
    bucket = new_bucket(moto)
    storage.upload(best, f"s3://{bucket}/best")
    uri = f"s3://{bucket}/deep/model.pt2"
    assert export(f"s3://{bucket}/best", uri, "--format", "torch-export") == 0
    assert f"exported to {uri}; " in capsys.readouterr().out
    (tmp_path / "model.pt2").write_bytes(storage.read(uri))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = load(best)(images)
    torch.testing.assert_close(run_file(tmp_path / "model.pt2", images)[0], expected, rtol=0, atol=2e-5)


def test_a_difference_is_found_wherever_it_is() -> None:
    torch.manual_seed(0)
    model = build_model(recipe_from(TINY)).eval()

    def wrong_if(case: Any) -> float:
        return largest_difference(model, lambda x: model(x) + 0.01 * case(x), 32)

    assert largest_difference(model, model, 32) == 0
    assert wrong_if(lambda x: len(x) == 1) == pytest.approx(0.01, abs=1e-6)
    assert wrong_if(lambda x: len(x) > 1) == pytest.approx(0.01, abs=1e-6)
    assert wrong_if(lambda x: x.abs().max() > 2.7) == pytest.approx(0.01, abs=1e-6)  # noise
    assert wrong_if(lambda x: x.abs().max() <= 2.7) == pytest.approx(0.01, abs=1e-6)
    assert not largest_difference(model, lambda x: model(x) * torch.nan, 32) <= TOLERANCE


def test_what_looks_like_pictures_is_smooth_and_in_their_range() -> None:
    images = picture_like(4, 64, torch.Generator().manual_seed(0))
    assert images.shape == (4, 3, 64, 64)
    assert -2.1 <= images.min() < -1 < 1 < images.max() <= 2.6
    assert (images.diff(dim=3).abs().mean() < images.std() / 4).item()  # neighbours are alike


@pytest.mark.integration
@pytest.mark.views
def test_a_file_that_differs_from_the_model_is_not_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights are so large that float32 overflows: no two orders of summation agree."""
    torch.manual_seed(0)
    model = build_model(recipe_from(TINY))
    randomized(model)
    with torch.no_grad():
        model.backbone.blocks[-1].block.conv2.weight.fill_(torch.finfo(torch.float32).max)
    save_model(tmp_path / "best", model, {})
    out = tmp_path / "out" / "model.pt2"
    out.parent.mkdir()
    out.write_text("as it was")
    assert export(tmp_path / "best", out, "--format", "torch-export") == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert "differs from" in said
    assert len(said.splitlines()) == 1
    assert [path.name for path in out.parent.iterdir()] == ["model.pt2"]
    assert out.read_text() == "as it was"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_one_sentence(
    best: Path, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # makes Python's import of the package fail
    assert export(best, tmp_path / "model.onnx") == 2
    said = capsys.readouterr().err
    advice = "run pip install '.[export]' in the project's folder"
    assert said == f"error: --format onnx needs the package {package}; {advice}\n"
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_one_sentence(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for model, out, more, part in (
        (best, tmp_path / "model.pt2", (), "end it in .onnx"),
        (best, tmp_path / "model.onnx", ("--format", "torch-export"), "end it in .pt2"),
        (best, tmp_path / "folder.onnx", (), "is a folder"),
        (best, tmp_path / "model.ts", ("--format", "torchscript"), "invalid choice"),
        (tmp_path, tmp_path / "model.onnx", (), "has no model.safetensors"),
    ):
        assert export(model, out, *more) == 2
        printed, said = capsys.readouterr()
        assert printed == ""
        assert part in said
        assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx"]


def test_help_names_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "full path as ONNX",
        "(default: onnx)",
        "(default: model.onnx or model.pt2)",
        "L2-normalized embeddings",
    ):
        assert part in text
