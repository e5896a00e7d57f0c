"""Batch training of convolutional and recurrent networks on Slurm clusters."""

__version__ = "0.1.0"
