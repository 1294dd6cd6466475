"""Simulated showers and signals: parametrised ones, and those of Geant4."""
