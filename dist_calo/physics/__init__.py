"""Observables of showers, comparisons of two samples, their figures and the report."""
