"""Training: `training` is the loop; plain PyTorch, the same in one process, under torchrun, and in a Ray Train worker."""

from dfml.train.training import Training, TrainingDiverged

__all__ = ["Training", "TrainingDiverged"]
