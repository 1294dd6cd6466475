"""Write a trained network as a program of its own: ``dist-calo export --checkpoint DIR --out model.onnx``."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dist_calo.cli.command_line import add_model_options, one_line_parser
from dist_calo.errors import ConfigError

DESCRIPTION = """Write a trained network as a program of its own, for Geant4 and C++.

Inputs are the incident energy in GeV, the angle in rad where the model has it, and random numbers; the output is the
energies of the cells in GeV. The file says all else about itself: the detector, the energies of training, the units.
It is compared with PyTorch before it gets its name. docs/geant4.md says how to use it."""


def main(arguments: Sequence[str]) -> int:
    """Export a generator and return the exit code."""
    options = _parser().parse_args(list(arguments))
    out = Path(options.out)
    if out.exists() and not options.force:
        raise ConfigError(f"--out {out}: the file exists; name another or add --force to replace it")
    if options.check < 0 or not 0 < options.tolerance < 1:
        raise ConfigError(
            f"--check {options.check} --tolerance {options.tolerance}: compare 0 or more showers, to a tolerance "
            "above 0 and below 1"
        )
    if options.format == "torch" and options.opset is not None:
        raise ConfigError(
            f"--opset {options.opset}: TorchScript has none; leave it out, or take --format onnx"
        )

    from dist_calo.deployment.exporting import export_onnx, export_torch
    from dist_calo.deployment.exporting.programs import OPSET
    from dist_calo.training.model_sources import state_of
    from dist_calo.training.restore import restore_generator

    checkpoint = state_of(options.checkpoint, options.tracking_uri)
    generator = restore_generator(checkpoint)
    facts = {
        "model": checkpoint.model_name,
        "particle": checkpoint.manifest["particle"] or "unknown",
    }
    opset = OPSET if options.opset is None else options.opset
    export = partial(export_onnx, opset=opset) if options.format == "onnx" else export_torch
    report = export(
        generator,
        out,
        ranges=checkpoint.ranges,
        description=facts,
        check=options.check,
        tolerance=options.tolerance,
    )
    print(f"{out}: {facts['model']} of step {generator.step}, {report.size} bytes")
    print(report.agreement.described if report.agreement else "not compared with PyTorch (--check 0)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = one_line_parser("dist-calo export", DESCRIPTION)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_model_options(parser)
    add = parser.add_argument
    add("--out", required=True, help="file to write, such as model.onnx or model.pt")
    add("--force", action="store_true", help="replace the file if it exists")
    add(
        "--format",
        choices=("onnx", "torch"),
        default="onnx",
        help="ONNX, or TorchScript for LibTorch (default onnx)",
    )
    add(
        "--opset",
        type=int,
        help="version of ONNX's operators (default 18, which ONNX Runtime reads from 1.14 on)",
    )
    add("--check", type=int, default=1000, help="showers to compare with PyTorch (default 1000)")
    add(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest relative difference of a shower's visible energy and of its cells (default 1e-4)",
    )
    return parser
