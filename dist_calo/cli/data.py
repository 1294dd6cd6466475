"""Look at shower files, check, rewrite or split them: ``dist-calo data inspect|validate|convert|split``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dist_calo.cli.command_line import one_line_parser
from dist_calo.errors import EXIT_USER


def main(arguments: Sequence[str]) -> int:
    """Run one of the four commands and return the exit code."""
    options = _parser().parse_args(list(arguments))

    from dist_calo.data.formats import ReadOptions

    units = {"cell_unit": options.cells_unit, "energy_unit": options.energy_unit}
    options.reading = ReadOptions(**units, binning=options.binning)
    return int(options.run(options))


def _inspect(options: argparse.Namespace) -> int:
    from dist_calo.data.check import check_files
    from dist_calo.data.inspection import summarise, table

    manifest, problems = check_files(options.path, options.format, options.reading, every_row=False)
    if manifest is not None:
        summary = summarise(manifest)
        print(json.dumps(summary, indent=2) if options.json else table(summary), flush=True)
    for problem in problems:
        print(f"dist-calo data: {problem}", file=sys.stderr)
    return EXIT_USER if problems else 0


def _validate(options: argparse.Namespace) -> int:
    from dist_calo.data.check import validate

    lines, fine = validate(
        options.path, options.format, options.reading, options.manifest, renew=options.renew
    )
    print(*lines, sep="\n")
    return 0 if fine else EXIT_USER


def _convert(options: argparse.Namespace) -> int:
    from dist_calo.data.convert import Rewrite, convert, require_free, targets_of
    from dist_calo.data.manifest import manifest_of, matching_files

    manifest = manifest_of(matching_files(*options.path), options.format, options.reading)
    targets = targets_of(manifest, options.out)
    require_free(list(targets), force=options.force)
    written = convert(manifest, targets, Rewrite.of(vars(options)))
    print(*(made.described(path) for path, made in written.items()), sep="\n")
    return 0


def _split(options: argparse.Namespace) -> int:
    from dist_calo.config import DataConfig
    from dist_calo.data.convert import SPLITS, Rewrite, require_free, split
    from dist_calo.data.manifest import manifest_of, matching_files

    config = DataConfig(validation_fraction=options.validation_fraction, test_fraction=options.test_fraction)
    require_free([options.out / f"{name}.h5" for name in SPLITS], force=options.force)
    manifest = manifest_of(matching_files(*options.path), options.format, options.reading)
    written = split(manifest, options.out, config, Rewrite.of(vars(options)))
    print(*(made.described(path) for path, made in written.items()), sep="\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("dist-calo data", "Look at shower files, check, rewrite or split them.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    inspect = _command(commands, "inspect", _inspect, "what the files hold, from a few showers of each")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    validate = _command(commands, "validate", _validate, "check every row; exit code 2 if one breaks a rule")
    manifest = "for data.manifest: the files must still be those in it; written if it is missing"
    validate.add_argument("--manifest", type=Path, help=manifest)
    validate.add_argument("--renew", action="store_true", help="write the manifest anew after a clean check")
    text = "write showers anew: older schema, other unit or chunks"
    convert = _command(commands, "convert", _convert, text)
    add = convert.add_argument
    add("--out", required=True, help="file to write, ending in .h5 or .hdf5; or a folder")
    add("--cells-factor", type=float, default=1.0, help="factor on the cells besides (default 1)")
    add("--cut", type=float, default=0.0, help="cells below this become 0, in GeV (default 0)")
    least = "leave out showers whose cells sum to no more, in GeV"
    add("--min-sum", dest="least_sum", metavar="MIN_SUM", type=float, help=least)
    add("--particle", help="particle to name in the files, such as e-")
    split = _command(commands, "split", _split, "a file for each of training, validation and test")
    split.add_argument(
        "--out", type=Path, required=True, help="folder for train.h5, validation.h5 and test.h5"
    )
    for name in ("validation", "test"):
        split.add_argument(f"--{name}-fraction", type=float, default=0.1, help="share (default 0.1)")
    for writing in (convert, split):
        add = writing.add_argument
        add("--chunk-rows", type=int, default=32, help="showers of an HDF5 chunk (default 32)")
        add("--compression", choices=("gzip", "zstd", "lzf", "none"), default="gzip")
        add("--level", type=int, default=4, help="effort of gzip and zstd, 1 to 9 (default 4)")
        add("--force", action="store_true", help="replace files that exist")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: object, text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    add = parser.add_argument
    add("path", nargs="+", help="shower files, or globs in quotes")
    add("--format", default="auto", help="schema of the files (default: found by their data sets)")
    units = ("auto", "GeV", "MeV", "keV")
    add("--cells-unit", choices=units, default="auto", help="unit of the cells (default: as the files say)")
    add("--energy-unit", choices=units, default="auto", help="unit of the incident energy, likewise")
    add("--binning", help="XML file that tells the cells of the CaloChallenge's showers")
    parser.set_defaults(run=run)
    return parser
