"""The bars: what figures must not exceed, or must reach, by name.

Bars of speed and memory are what the project measured of itself on CPUs (docs/method.md), or goals.
"""

from __future__ import annotations

BARS = {
    # The largest |a − b| / (1 + |b|), as in the project's tests.
    "same as timm": 1e-4,
    # From here to "float32": ‖a − b‖ / ‖b‖.
    "bf16": 2e-2,
    "bf16 against timm's own error": 1.5,
    "float64": 1e-9,
    "float32": 1e-3,
    # Share of tokens that both devices send to the same sub-block, in float32.
    "choices": 0.999,
    "gradients float64": 1e-8,
    "gradients float32": 1e-2,
    # Cosine to the gradients in float32.
    "gradients bf16": 0.98,
    # Seconds and bytes of a training step.
    "exact × dense": 2.0,
    "sparse × dense": 1.7,
    "exact memory × dense": 2.0,
    "sparse memory × dense": 1.7,
    # Seconds of inference.
    "routed × dense": 1.0,
    "ViT-B bf16, routed × dense": 0.8,
    # How often the host waits for the GPU in a training step.
    "syncs": 5,
    # Share of a step in which the GPU computes.
    "busy": 0.85,
    # Images per second of the whole loop, as a share of the bare step's.
    "loop of step": 0.8,
    # Images per second that the cores can decode, as a share of those that a step takes.
    "data": 1.0,
    # Share of an epoch's training in which it waits for data.
    "data wait": 0.1,
    # Seconds of the compiled step, as a share of the uncompiled step's.
    "compile": 1.0,
    # Seconds.
    "metrics": 2.0,
    "same metrics": 1e-4,
    # Images per second.
    "embed": 1000.0,
    "export": 1e-4,
}
