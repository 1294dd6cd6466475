"""Distributed training of generative networks for calorimeter showers."""

__version__ = "0.1.0"
