"""Check of shower files before they are used: every row, and whether the files are still those of a manifest."""

from collections.abc import Sequence
from pathlib import Path

from dist_calo.data.formats import ReadOptions
from dist_calo.data.shards import (
    Manifest,
    find_problems,
    manifest_of,
    matching_files,
    read_manifest,
    require_same_files,
)
from dist_calo.errors import DataError
from dist_calo.files import write_whole


def check_files(
    patterns: Sequence[str], format_name: str, options: ReadOptions
) -> tuple[Manifest | None, list[str]]:
    """Check every row of shower files.

    Args:
        patterns: files or globs.
        format_name: schema of the files, or auto.
        options: properties that the files may not tell.

    Returns:
        The manifest, None where there is a problem; and the problems, those of all files.
    """
    paths = matching_files(*patterns)
    problems = [problem for path in paths for problem in _problems(path, format_name, options)]
    if problems:
        return None, problems
    try:
        return manifest_of(paths, format_name, options), []
    except DataError as error:
        return None, [str(error)]


def _problems(path: str, format_name: str, options: ReadOptions) -> list[str]:
    """Return the problems of one file, so that one bad file does not hide those of others."""
    try:
        manifest = manifest_of([path], format_name, options)
        return [f"{entry.path}: {problem}" for entry, problem in find_problems(manifest)]
    except DataError as error:
        return [str(error)]


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
    with write_whole(path) as temporary:
        temporary.write_text(manifest.to_json())
    return f"{path}: manifest written, checksum {manifest.checksum}"
