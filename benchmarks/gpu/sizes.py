"""How large the models, batches and data sets of the checks are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The sizes of one run of the checks.

    Attributes:
        batch: images per training step.
        image: side of an image, in pixels.
        small, base, cnn: timm's names of the three models whose speed is measured.
        vit, resnet: the two models whose gradients are compared.
        vit_blocks: the first, a middle and the last block of `vit`.
        turns: how often each variant of a step is timed.
        calls: calls of the step each time.
        path_images: images on which paths are compared.
        photo_classes, photos_per_class, photo_width, photo_height: of the made photographs.
        points, point_width, point_classes: of the embeddings that the metrics score.
        matrix: side of the matrices whose product is timed.
        copied_bytes: bytes of the copy that is timed.
        photo_flags: of `python -m dfml.train` on the photographs.
        emoji_flags: of `python -m dfml.train` on the emoji.
    """

    batch: int
    image: int
    small: str
    base: str
    cnn: str
    vit: str
    resnet: str
    vit_blocks: str
    turns: int
    calls: int
    path_images: int
    photo_classes: int
    photos_per_class: int
    photo_width: int
    photo_height: int
    points: int
    point_width: int
    point_classes: int
    matrix: int
    copied_bytes: int
    photo_flags: str
    emoji_flags: str


FULL = Sizes(
    batch=120,
    image=224,
    small="deit_small_distilled_patch16_224",
    base="vit_base_patch16_224",
    cnn="resnet50",
    vit="vit_tiny_patch16_224",
    resnet="resnet18",
    vit_blocks="0,5,11",
    turns=6,
    calls=2,
    path_images=4,
    photo_classes=160,
    photos_per_class=60,
    photo_width=500,
    photo_height=400,
    points=60502,
    point_width=384,
    point_classes=11316,
    matrix=8192,
    copied_bytes=2**32,
    photo_flags="--batch-size 120 --epochs 3",
    emoji_flags="--batch-size 48 --IPC 2 --image-size 64 --set test_size=96",
)

# To try the code of the checks without a GPU. timm tests itself with these models.
TINY = Sizes(
    batch=4,
    image=32,
    small="test_vit3",
    base="test_vit4",
    cnn="test_resnet",
    vit="test_vit3",
    resnet="test_resnet",
    vit_blocks="0,4,8",
    turns=1,
    calls=1,
    path_images=2,
    photo_classes=8,
    photos_per_class=6,
    photo_width=100,
    photo_height=80,
    points=600,
    point_width=16,
    point_classes=100,
    matrix=64,
    copied_bytes=2**16,
    photo_flags="--batch-size 8 --epochs 1 --warm 0",
    emoji_flags="--batch-size 1200 --image-size 32 --epochs 1 --warm 0 "
    "--model test_resnet --sub-blocks 4 --readpath random",
)
