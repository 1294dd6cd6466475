"""Showers and signals made without Geant4."""
