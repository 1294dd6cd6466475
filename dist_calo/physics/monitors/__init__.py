"""Observables and comparisons of validation during training, by read-out."""
