"""Samples of showers, generated or simulated on all ranks."""
