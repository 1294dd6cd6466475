"""Geant4 by the ``geant4-pybind`` wheel: real showers of the detectors, and its own time for one."""
