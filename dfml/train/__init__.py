"""Training in plain PyTorch: in one process, under torchrun, or in a Ray Train worker."""

from dfml.train.training import Training, TrainingDiverged

__all__ = ["Training", "TrainingDiverged"]
