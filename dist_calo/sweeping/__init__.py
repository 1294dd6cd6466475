"""Hyper-parameter search: many workers take trials of one study that lives in a folder of a shared file system."""
