"""Checks of a machine or of the nodes of a job."""
