"""One reader per file schema, found by the data sets that a file holds."""

from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.data.formats.calochallenge import CaloChallengeFormat
from dist_calo.data.formats.layers import LayersFormat
from dist_calo.data.formats.lcd import LcdFormat
from dist_calo.data.formats.protocol import Format, Layout, Problem, ReadOptions, ShowerRows
from dist_calo.data.formats.signals import SignalsFormat, read_deposits
from dist_calo.data.formats.writer import ShowerWriter
from dist_calo.errors import ConfigError, DataError

if TYPE_CHECKING:
    import h5py

__all__ = [
    "FORMATS",
    "Format",
    "Layout",
    "Problem",
    "ReadOptions",
    "ShowerRows",
    "ShowerWriter",
    "format_named",
    "open_file",
    "read_deposits",
    "recognise",
]

FORMATS: dict[str, Format] = {
    "lcd": LcdFormat(),
    "layers": LayersFormat(),
    "calochallenge": CaloChallengeFormat(),
    "signals": SignalsFormat(),
}
"""Schemas by name."""


def format_named(name: str) -> Format:
    """The schema of that name.

    Raises:
        ConfigError: if there is none; the message lists the choices.
    """
    if name not in FORMATS:
        raise ConfigError(f"data.format={name!r}: choose auto or one of {', '.join(FORMATS)}")
    return FORMATS[name]


def open_file(path: str | Path) -> "h5py.File":
    """Open a shower file for reading.

    Raises:
        DataError: if it does not exist, may not be read, or is no complete HDF5 file.
    """
    import h5py

    try:
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file does not exist") from error
    except PermissionError as error:
        raise DataError(f"{path}: the file may not be read by this user") from error
    except OSError as error:
        raise DataError(
            f"{path}: not a complete HDF5 file ({error}): it is truncated or of another kind, "
            "make or copy it again"
        ) from error


def recognise(file: "h5py.File") -> Format:
    """The schema of an open file.

    Raises:
        DataError: if the data sets fit no known schema.
    """
    for known in FORMATS.values():
        if known.recognises(file):
            return known
    schemas = "; ".join(f"{known.name} needs {known.needs}" for known in FORMATS.values())
    raise DataError(
        f"{file.filename}: its data sets ({', '.join(sorted(file)) or 'none'}) fit no known schema: {schemas}"
    )
