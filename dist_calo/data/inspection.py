"""Summary of a data set, from a few of its showers."""

from typing import Any

import numpy as np

from dist_calo.data.formats import format_named
from dist_calo.data.manifest import FileEntry, Manifest

_PIECES, _PIECE_ROWS = 8, 32


def summarise(manifest: Manifest) -> dict[str, Any]:
    """Return facts about each file and all of them, as plain values.

    Energies, sampling fraction (energy in all cells / incident energy) and the share of empty cells are those
    of at most 256 showers a file, in 8 places spread over it. Waveforms have neither of the last two: None.
    """
    files = [_summarise_file(manifest, entry) for entry in manifest.files]
    return {
        "format": manifest.format,
        "geometry": manifest.geometry.to_dict(),
        "shape": list(manifest.geometry.shape),
        "cells": manifest.geometry.described,
        "conditions": list(manifest.geometry.conditions),
        "particle": manifest.particle,
        "rows": manifest.rows,
        "bytes": sum(entry.bytes for entry in manifest.files),
        "checksum": manifest.checksum,
        "energy_source": ", ".join(energy_sources(manifest)),
        "energy_min": min(file["energy_min"] for file in files),
        "energy_max": max(file["energy_max"] for file in files),
        "sampling_fraction": _mean(files, "sampling_fraction"),
        "empty_cells": _mean(files, "empty_cells"),
        "files": files,
    }


def energy_sources(manifest: Manifest) -> list[str]:
    """Return the descriptions of the files' incident energies, each once."""
    found: dict[str, None] = {}
    for entry in manifest.files:
        with entry.open() as file:
            found[format_named(manifest.format).rows(file, manifest.options).energy_source] = None
    return list(found)


def _mean(files: list[dict[str, Any]], name: str) -> float | None:
    """Return the mean over the sampled showers of all files, None where it has no meaning."""
    if any(file[name] is None for file in files):
        return None
    return float(np.average([file[name] for file in files], weights=[file["sampled_rows"] for file in files]))


def _summarise_file(manifest: Manifest, entry: FileEntry) -> dict[str, Any]:
    with entry.open() as file:
        starts = sorted({entry.rows * piece // _PIECES for piece in range(_PIECES)})
        after = [*starts[1:], entry.rows]
        stops = [min(start + _PIECE_ROWS, end) for start, end in zip(starts, after, strict=True)]
        format_ = format_named(manifest.format)
        rows = format_.rows(file, manifest.options)
        read = [rows.read(start, stop) for start, stop in zip(starts, stops, strict=True)]
        storage = format_.describe(file, manifest.options, known=manifest.geometry).storage
    showers = np.concatenate([showers for showers, _ in read])
    energy = np.concatenate([conditions[:, 0] for _, conditions in read])
    energies = not manifest.geometry.signed
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = showers.reshape(len(showers), -1).sum(axis=1, dtype=np.float64) / energy
    return {
        "name": entry.name,
        "rows": entry.rows,
        "bytes": entry.bytes,
        "chunk_rows": entry.chunk_rows,
        "storage": storage,
        "sampled_rows": len(showers),
        "energy_min": float(energy.min()),
        "energy_max": float(energy.max()),
        "sampling_fraction": float(fraction.mean()) if energies else None,
        "empty_cells": float((showers == 0).mean()) if energies else None,
    }


def table(summary: dict[str, Any]) -> str:
    """Return the summary as text, one line a file."""
    lines = [
        f"{summary['rows']} showers of {summary['cells']} in {len(summary['files'])} file(s), "
        f"{_megabytes(summary['bytes'])}; schema {summary['format']}, "
        f"particle {summary['particle'] or 'not told'}, conditions {', '.join(summary['conditions'])}",
        f"incident energy: data set {summary['energy_source']}",
        f"checksum {summary['checksum']}",
        "",
    ]
    header = (
        "file",
        "rows",
        "size",
        "chunk",
        "compression",
        "energy in GeV",
        "sampling fraction",
        "empty cells",
    )
    body = [
        (
            file["name"],
            str(file["rows"]),
            _megabytes(file["bytes"]),
            f"{file['chunk_rows']} rows" if file["chunk_rows"] else "none",
            file["storage"],
            f"{file['energy_min']:.4g} to {file['energy_max']:.4g}",
            "none" if file["sampling_fraction"] is None else f"{file['sampling_fraction']:.4%}",
            "none" if file["empty_cells"] is None else f"{file['empty_cells']:.1%}",
        )
        for file in summary["files"]
    ]
    widths = [max(len(row[column]) for row in (header, *body)) for column in range(len(header))]
    for row in (header, *body):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
