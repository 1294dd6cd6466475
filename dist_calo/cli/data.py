"""Look at shower files, check, rewrite or split them: ``dist-calo data inspect|validate|convert|split``."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from dist_calo.cli.command_line import one_line_parser
from dist_calo.errors import EXIT_USER, ConfigError, DataError

if TYPE_CHECKING:
    from dist_calo.data.convert import Rewrite, Written
    from dist_calo.data.formats import ReadOptions
    from dist_calo.data.shards import Manifest


def main(arguments: Sequence[str]) -> int:
    """Run one of the four commands and return the exit code."""
    options = _parser().parse_args(list(arguments))
    return int(options.run(options))


def _inspect(options: argparse.Namespace) -> int:
    from dist_calo.data.check import check_files
    from dist_calo.data.summary import summarise, table

    manifest, problems = check_files(options.path, options.format, _read_options(options), every_row=False)
    if manifest is not None:
        summary = summarise(manifest)
        print(json.dumps(summary, indent=2) if options.json else table(summary), flush=True)
    for problem in problems:
        print(f"dist-calo data: {problem}", file=sys.stderr)
    return EXIT_USER if problems else 0


def _validate(options: argparse.Namespace) -> int:
    from dist_calo.data.check import check_files, compare_or_write_manifest
    from dist_calo.data.summary import energy_sources

    manifest, problems = check_files(options.path, options.format, _read_options(options))
    if manifest is not None and options.manifest and not problems:
        try:
            print(compare_or_write_manifest(Path(options.manifest), manifest, renew=options.renew))
        except DataError as error:
            problems.append(str(error))
    if manifest is None or problems:
        print("\n".join([*problems, f"{len(problems)} problem(s) found"]))
        return EXIT_USER
    print(f"incident energy: data set {', '.join(energy_sources(manifest))}")
    print(f"{manifest.rows} showers in {len(manifest.files)} file(s), no problem found")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from dist_calo.data.convert import convert, targets_of

    manifest = _manifest(options)
    targets = targets_of(manifest, options.out)
    _prepare(list(targets), options.force)
    return _report(convert(manifest, targets, _rewrite(options)))


def _split(options: argparse.Namespace) -> int:
    from dist_calo.config import DataConfig
    from dist_calo.data.convert import SPLITS, split

    config = DataConfig(validation_fraction=options.validation_fraction, test_fraction=options.test_fraction)
    folder = Path(options.out)
    _prepare([folder / f"{name}.h5" for name in SPLITS], options.force)
    return _report(split(_manifest(options), folder, config, _rewrite(options)))


def _manifest(options: argparse.Namespace) -> "Manifest":
    from dist_calo.data.shards import manifest_of, matching_files

    return manifest_of(matching_files(*options.path), options.format, _read_options(options))


def _read_options(options: argparse.Namespace) -> "ReadOptions":
    """Return what the user says of the files."""
    from dist_calo.data.formats import ReadOptions

    return ReadOptions(cell_unit=options.cells_unit, energy_unit=options.energy_unit, binning=options.binning)


def _prepare(targets: Sequence[Path], force: bool) -> None:
    """Make the folder of the files to be written; refuse to replace files unless asked to."""
    existing = [str(path) for path in targets if path.exists()]
    if existing and not force:
        raise ConfigError(f"{', '.join(existing[:3])}: exists; name another --out or replace it with --force")
    targets[0].parent.mkdir(parents=True, exist_ok=True)


def _report(written: "dict[Path, Written]") -> int:
    for path, made in written.items():
        carried = f", with {', '.join(made.extras)}" if made.extras else ""
        left = f", without {', '.join(made.left_out)} (not a row of numbers a shower in every file)"
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        print(f"{path}: {made.rows} showers{carried}{left if made.left_out else ''}, {size}")
    return 0


def _rewrite(options: argparse.Namespace) -> "Rewrite":
    from dist_calo.data.convert import Rewrite

    names = {setting.name for setting in fields(Rewrite)}
    return Rewrite(**{name: value for name, value in vars(options).items() if name in names})


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("dist-calo data", "Look at shower files, check, rewrite or split them.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    inspect = _command(commands, "inspect", _inspect, "what the files hold, from a few showers of each")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    validate = _command(commands, "validate", _validate, "check every row; exit code 2 if one breaks a rule")
    validate.add_argument(
        "--manifest", help="for data.manifest: the files must still be those in it; written if it is missing"
    )
    validate.add_argument("--renew", action="store_true", help="write the manifest anew after a clean check")
    convert = _command(
        commands, "convert", _convert, "write showers anew: older schema, other unit or chunks"
    )
    add = convert.add_argument
    add("--out", required=True, help="file to write, ending in .h5 or .hdf5; or a folder")
    add("--cells-factor", type=float, default=1.0, help="factor on the cells besides (default 1)")
    add("--cut", type=float, default=0.0, help="cells below this become 0, in GeV (default 0)")
    add(
        "--min-sum",
        dest="least_sum",
        metavar="MIN_SUM",
        type=float,
        help="leave out showers whose cells sum to no more, in GeV",
    )
    add("--particle", help="particle to name in the files, such as e-")
    split = _command(commands, "split", _split, "a file for each of training, validation and test")
    split.add_argument("--out", required=True, help="folder for train.h5, validation.h5 and test.h5")
    split.add_argument(
        "--validation-fraction", type=float, default=0.1, help="share for validation (default 0.1)"
    )
    split.add_argument("--test-fraction", type=float, default=0.1, help="share for test (default 0.1)")
    for writing in (convert, split):
        add = writing.add_argument
        add("--chunk-rows", type=int, default=32, help="showers of an HDF5 chunk (default 32)")
        add("--compression", choices=("gzip", "lzf", "none"), default="gzip")
        add("--level", type=int, default=4, help="effort of gzip, 1 to 9 (default 4)")
        add("--force", action="store_true", help="replace files that exist")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: object, text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("path", nargs="+", help="shower files, or globs in quotes")
    parser.add_argument(
        "--format", default="auto", help="schema of the files (default: found by their data sets)"
    )
    units = ("auto", "GeV", "MeV", "keV")
    parser.add_argument(
        "--cells-unit", choices=units, default="auto", help="unit of the cells (default: as the files say)"
    )
    parser.add_argument(
        "--energy-unit", choices=units, default="auto", help="unit of the incident energy, likewise"
    )
    parser.add_argument("--binning", help="XML file that tells the cells of the CaloChallenge's showers")
    parser.set_defaults(run=run)
    return parser
