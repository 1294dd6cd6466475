"""The conditions of all showers in files, read without their showers."""

import numpy as np

from dist_calo.data.formats import examine, open_file
from dist_calo.data.manifest import matching_files
from dist_calo.errors import DataError
from dist_calo.geometry import CONDITIONS


def read_conditions(pattern: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Read the conditions of a shower file, or of several with the same ones, in sorted order.

    Returns:
        Their names, and float32 with shape (N, C) in GeV and rad.

    Raises:
        DataError: if no file matches, one cannot be read or has other conditions than the first, or a value is
            impossible.
    """
    names: tuple[str, ...] = ()
    parts: list[np.ndarray] = []
    for path in matching_files(pattern):
        with open_file(path) as file:
            schema, layout, _ = examine(file)
            found = schema.rows(file).conditions(0, layout.rows)
        names = names or layout.geometry.conditions
        if layout.geometry.conditions != names:
            raise DataError(
                f"{path}: has {', '.join(layout.geometry.conditions)}, and other files {', '.join(names)}: "
                "name files of one kind"
            )
        for name, values in zip(names, found.T, strict=True):
            good = CONDITIONS[name].allows(values)
            if not good.all():
                row = int(np.argmin(good))
                raise DataError(f"{path}: row {row}: {name} {values[row]}, must be {CONDITIONS[name].rule}")
        parts.append(found)
    return names, np.concatenate(parts)
