"""Observables of each shower, by read-out, and their sums over a sample."""
