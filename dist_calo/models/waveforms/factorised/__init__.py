"""Amplitudes, times and pulse shapes, learned as factors."""
