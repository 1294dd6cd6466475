"""One reader for each file schema, recognised by the data sets of a file."""

from typing import TYPE_CHECKING

from dist_calo.data.formats.calochallenge import CaloChallengeFormat
from dist_calo.data.formats.calogan import LayersFormat
from dist_calo.data.formats.lcd import LcdFormat
from dist_calo.data.formats.protocol import AS_FILES_SAY, Format, Layout, Problem, ReadOptions, ShowerRows
from dist_calo.data.formats.signals import SignalsFormat, read_deposits
from dist_calo.data.formats.stored import require_stored
from dist_calo.data.formats.whole_files import hdf5_errors_of, open_file
from dist_calo.data.formats.writer import ShowerWriter
from dist_calo.errors import ConfigError, DataError
from dist_calo.geometry import Geometry

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
    "examine",
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
    """Return the schema of that name.

    Raises:
        ConfigError: if there is none; the message lists the choices.
    """
    if name not in FORMATS:
        raise ConfigError(f"data.format={name!r}: choose auto or one of {', '.join(FORMATS)}")
    return FORMATS[name]


def recognise(file: "h5py.File") -> Format:
    """Return the schema of an open file.

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


def examine(
    file: "h5py.File",
    required: Format | None = None,
    options: ReadOptions = AS_FILES_SAY,
    known: Geometry | None = None,
) -> tuple[Format, Layout, list[str]]:
    """Check an open file completely; return its content and the other files that hold part of it.

    Args:
        file: an open file.
        required: the schema that it must have; None for any.
        options: what it may leave unsaid.
        known: the geometry found before, as `Format.describe` has it.

    Raises:
        DataError: if it has no such schema or breaks a rule of it, if some rows were never written or lie in files that
            are missing, or if HDF5 cannot make sense of it.
    """
    with hdf5_errors_of(file):
        format_ = required or recognise(file)
        layout = format_.describe(file, options, known=known)
        cells, conditions = format_.rows(file, options).data_sets
        sources: list[str] = []
        for name in (*cells, *conditions):
            # An external link leads to a data set of another file.
            sources += [
                file[name].file.filename,
                *require_stored(file[name], may_be_filled=name in conditions),
            ]
        if not options.as_found:
            format_.check(file, options)
    return format_, layout, [path for path in dict.fromkeys(sources) if path != file.filename]
