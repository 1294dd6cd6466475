"""Locks and signs of life in folders that several machines share: who holds a file, and whether the holder lives."""
