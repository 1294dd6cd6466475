"""Shower files, their order, and how a rank reads its share."""
