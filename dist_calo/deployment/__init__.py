"""A trained generator for other programs: export, registry, serving, timing."""
