"""The conditions of all showers in files, read without their showers."""

import numpy as np

from dist_calo.data.formats import open_file, recognise
from dist_calo.data.formats.protocol import AS_FILES_SAY
from dist_calo.data.shards import matching_files
from dist_calo.errors import DataError


def read_conditions(pattern: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Read the conditions of a shower file, or of several with the same ones, in sorted order.

    Returns:
        Their names, and float32 with shape (N, C) in GeV and rad.

    Raises:
        DataError: if no file matches, one cannot be read or has other conditions than the first, a value is not finite
            or an energy not above 0.
    """
    names: tuple[str, ...] = ()
    parts: list[np.ndarray] = []
    for path in matching_files(pattern):
        with open_file(path) as file:
            schema = recognise(file)
            layout = schema.describe(file)
            schema.check(file)
            try:
                found = schema.rows(file, AS_FILES_SAY).conditions(0, layout.rows)
            except OSError as error:
                raise DataError(f"{path}: the conditions cannot be read ({error})") from error
        names = names or layout.geometry.conditions
        if layout.geometry.conditions != names:
            raise DataError(
                f"{path}: has {', '.join(layout.geometry.conditions)}, and other files {', '.join(names)}: "
                "name files of one kind"
            )
        bad = ~np.isfinite(found).all(axis=1) | (found[:, 0] <= 0)
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(f"{path}: row {row}: energy {found[row, 0]} GeV, must be finite and above 0")
        parts.append(found)
    return names, np.concatenate(parts)
