"""Pieces that networks of several models are made of."""
