"""Check of shower files before they are used: every row, and whether the files are still those of a manifest."""

from collections.abc import Sequence
from pathlib import Path

from dist_calo.data.formats import ReadOptions
from dist_calo.data.inspection import energy_sources
from dist_calo.data.manifest import (
    Manifest,
    find_problems,
    manifest_of,
    matching_files,
    read_manifest,
    require_same_files,
)
from dist_calo.errors import DataError
from dist_calo.files import write_text


def validate(
    patterns: Sequence[str], format_name: str, options: ReadOptions, stored: Path | None, *, renew: bool
) -> tuple[list[str], bool]:
    """Check every row of shower files, and that they are still those of a stored manifest.

    Args:
        patterns: files or globs.
        format_name: schema of the files, or auto.
        options: properties that the files may not tell.
        stored: file of the manifest, written if it is missing; None for none.
        renew: write the manifest anew.

    Returns:
        Lines for the user, and whether there is no problem.
    """
    manifest, problems = check_files(patterns, format_name, options)
    lines = []
    if manifest is not None and stored is not None and not problems:
        try:
            lines.append(compare_or_write_manifest(stored, manifest, renew=renew))
        except DataError as error:
            problems.append(str(error))
    if manifest is None or problems:
        return [*lines, *problems, f"{len(problems)} problem(s) found"], False
    lines.append(f"incident energy: data set {', '.join(energy_sources(manifest))}")
    return [*lines, f"{manifest.rows} showers in {len(manifest.files)} file(s), no problem found"], True


def check_files(
    patterns: Sequence[str], format_name: str, options: ReadOptions, *, every_row: bool = True
) -> tuple[Manifest | None, list[str]]:
    """Check shower files, each by itself, so that a bad one does not hide the others.

    Args:
        patterns: files or globs.
        format_name: schema of the files, or auto.
        options: properties that the files may not tell.
        every_row: whether to check every row.

    Returns:
        The manifest of the files without a problem, None where there is none; and the problems of all others.
    """
    good, problems = [], []
    for path in matching_files(*patterns):
        try:
            manifest = manifest_of([path], format_name, options)
            rows = find_problems(manifest) if every_row else ()
            found = [f"{entry.path}: {problem}" for entry, problem in rows]
        except DataError as error:
            found = [str(error)]
        problems += found
        good += [] if found else [path]
    try:
        return manifest_of(good, format_name, options) if good else None, problems
    except DataError as error:
        return None, [*problems, str(error)]


def compare_or_write_manifest(path: Path, manifest: Manifest, *, renew: bool) -> str:
    """Compare files with a stored manifest, or write it where there is none or it is to be renewed.

    Returns:
        A line that says which.

    Raises:
        DataError: if the files are not those of the manifest.
    """
    if path.exists() and not renew:
        try:
            require_same_files(read_manifest(path), manifest)
        except DataError as error:
            raise DataError(f"{path}: {error}; if that was meant, add --renew") from error
        return f"{path}: the files are those of the manifest"
    write_text(path, manifest.to_json())
    return f"{path}: manifest written, checksum {manifest.checksum}"
