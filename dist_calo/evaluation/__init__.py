"""Comparing generated with reference showers, on all ranks."""
