"""Figures of showers and of samples compared."""
