"""One evaluation from beginning to end: sources, samples, numbers, files, record."""

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from dist_calo.comm.protocol import Communicator
from dist_calo.comm.threads import set_threads
from dist_calo.config import DataConfig, TrackingConfig
from dist_calo.data.formats import open_file
from dist_calo.data.formats.units import declared_unit
from dist_calo.data.identity import require_unchanged
from dist_calo.data.manifest import matching_files
from dist_calo.errors import ConfigError, DataError, UserError
from dist_calo.evaluation.record import EvaluationRecord, describe_model, require_store
from dist_calo.evaluation.request import EvaluationRequest
from dist_calo.evaluation.samples import (
    FakeShowers,
    FilesOf,
    GeneratedFor,
    Samples,
    collect,
    require_same_readout,
)
from dist_calo.files import write_whole, writing
from dist_calo.physics.metrics.evaluation import Evaluation, measured_sums
from dist_calo.physics.metrics.half_sample_bootstrap import LEAST_SHOWERS, Measured
from dist_calo.physics.metrics.multivariate_metrics import (
    LEAST_ROWS,
    measured_classifier,
    measured_frechet,
    measured_rows,
)
from dist_calo.physics.observables.sample import FARTHEST, Sample
from dist_calo.physics.report import Drawings, draw_bins, draw_chapters, write_report
from dist_calo.tracking.provenance import describe_run
from dist_calo.training.checkpoint import Checkpoint
from dist_calo.training.dataset import shared_manifest
from dist_calo.training.model_sources import state_of
from dist_calo.training.restore import generating_device, restore_generator
from dist_calo.training.showers import Files

UNITS = ((1e3, "MeV", "GeV"), (1e6, "keV", "GeV"), (1e-3, "GeV", "MeV"), (1e-6, "GeV", "keV"))
"""Factors by which energies differ that were read in the wrong unit."""
ENERGIES_DIFFER = 1e-4
"""Probability of the Kolmogorov-Smirnov test below which two samples have different incident energies."""


def evaluate(request: EvaluationRequest, communicator: Communicator) -> Evaluation | None:
    """Compare, write ``metrics.json`` and ``report.html``, and log both; the evaluation on rank 0, None on others.

    Raises:
        UserError: if files, checkpoint or store are at fault.
    """
    began = time.monotonic()
    first = communicator.world.rank == 0
    checkpoint = None
    if request.checkpoint is not None:
        found = state_of(request.checkpoint, request.tracking_uri) if first else None
        checkpoint = communicator.broadcast_object(found)
    uri = request.tracking_uri or (
        checkpoint.config["tracking"]["uri"] if checkpoint else TrackingConfig().uri
    )
    if first:
        require_store(uri)
        _require_writable(request.out)
    set_threads(communicator, None)
    reference = _reference(request, checkpoint, communicator)
    # What a model was taught to leave out is left out of the showers it is compared with, too.
    taught = checkpoint.transform.get("threshold", 0.0) if checkpoint else 0.0
    threshold = taught if request.threshold is None else request.threshold
    if threshold and reference.manifest.geometry.signed:
        raise ConfigError(f"--threshold {threshold:g}: waveforms have no cells; leave it out")
    reference = replace(reference, threshold=threshold)
    fake = _fake(request, checkpoint, reference, communicator)
    samples = collect(
        reference,
        fake,
        communicator,
        edges=request.edges,
        rows=request.rows,
        with_showers="low" in request.levels,
        say=_say if first else lambda _: None,
    )
    if first:
        read = [reference, fake.files] if isinstance(fake, FilesOf) else [reference]
        entries = [entry for files in read for entry in files.manifest.files]
        require_unchanged(*(part for entry in entries for part in (entry, *entry.sources)))
    slots, whole = _numbers(samples, communicator, paired=fake.paired)
    evaluation = Evaluation(
        geometry=reference.manifest.geometry,
        real=samples.real,
        fake=samples.fake,
        slots=slots,
        whole=whole,
        examples=samples.examples,
        names=request.names,
    )
    drawings = _drawn(evaluation, communicator) if request.report else None
    if not first:
        # Whatever rank 0 does alone, for hours perhaps, it tells now and then that it goes on.
        while communicator.broadcast_object(False):
            pass
        return None
    say = _Alive(communicator)
    record = EvaluationRecord(uri, checkpoint.run_id if checkpoint else None)
    about = describe_run()
    facts = _facts(request, checkpoint, reference, fake, samples, record, about, communicator)
    for level in request.levels:
        whole |= measured_classifier(samples.real, samples.fake, level, say)
    notes = tuple(_notes(request, samples))
    evaluation = replace(evaluation, whole=whole, facts=facts, history=record.history(), notes=notes)
    facts["Evaluation"]["wall time"] = f"{time.monotonic() - began:.0f} s"
    files = _write(evaluation, request.out, drawings)
    record.log(evaluation, files, checkpoint.step if checkpoint else 0, about)
    if record.problem:
        print(f"not logged to MLflow: {record.problem}", file=sys.stderr)
    elif record.run_id:
        print(f"MLflow   run {record.run_id} in {uri}")
    communicator.broadcast_object(False)
    return evaluation


class _Alive:
    """Progress of rank 0, told to the user and to the ranks that wait for it."""

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator

    def __call__(self, text: str) -> None:
        _say(text)
        self._communicator.broadcast_object(True)


def _require_writable(folder: Path) -> None:
    """Check that the folder of the results can be made and written to, before hours of work.

    Raises:
        OSError: if it cannot be written to.
    """
    with writing(folder):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
        if made:
            # It stays away until there is something to put into it.
            folder.rmdir()


def _reference(
    request: EvaluationRequest, checkpoint: Checkpoint | None, communicator: Communicator
) -> Files:
    if request.real is not None:
        return _files(request, request.real, communicator)
    assert checkpoint is not None, "the command line demands --real without a checkpoint"
    first = communicator.world.rank == 0
    data, manifest = checkpoint.reading.data, checkpoint.data
    mine = [entry.path for entry in manifest.files if not Path(entry.path).exists()] if first else []
    missing = communicator.broadcast_object(mine)
    if missing:
        raise DataError(
            f"{missing[0]}: the showers that the checkpoint was trained on are not here; name some with --real"
        )
    if not data.test_fraction:
        raise DataError("data.test_fraction=0: training kept no showers for a test; name some with --real")
    return Files(manifest=manifest, config=data, split="test", most=request.showers)


def _files(
    request: EvaluationRequest, path: str, communicator: Communicator, as_found: bool = False
) -> Files:
    config = replace(request.reading, path=path)
    told: dict[str, str | None] = {}
    try:
        if communicator.world.rank == 0:
            # One sample may be in other units than the other: what a file tells itself goes before the options.
            told = _told_units(config)
            config = replace(
                config,
                cell_unit="auto" if told["cell"] else config.cell_unit,
                energy_unit="auto" if told["energy"] else config.energy_unit,
            )
        manifest = shared_manifest(config, communicator, as_found)
    except UserError as error:

        def here(advice: re.Match[str]) -> str:
            what, unit = advice.groups()
            attribute = f"the attribute {what}_units of the file to {unit}"
            return attribute if told.get(what) else f"--{what}-unit {unit}"

        # There are no data.path and no data.cell_unit on this command line.
        words = str(error).replace("data.path=", "")
        raise type(error)(re.sub(r"data\.(cell|energy)_unit=(\w+) \(.*?\)", here, words)) from None
    return Files(manifest=manifest, config=config, most=request.showers)


def _told_units(config: DataConfig) -> dict[str, str | None]:
    """Return the units of cells and incident energies that the first of the files tells itself.

    Raises:
        DataError: if no file matches or it cannot be opened.
    """
    with open_file(matching_files(*config.patterns)[0]) as file:
        cells = declared_unit(file, "cell_units") or declared_unit(file, "units")
        return {"cell": cells, "energy": declared_unit(file, "energy_units")}


def _fake(
    request: EvaluationRequest, checkpoint: Checkpoint | None, reference: Files, communicator: Communicator
) -> FakeShowers:
    readout = reference.manifest.geometry
    if request.fake is not None:
        # What a generator does wrong is what is asked for: only the reference must be sound.
        files = _files(request, request.fake, communicator, as_found=True)
        require_same_readout(readout, files.manifest.geometry)
        return FilesOf(files=replace(files, threshold=reference.threshold))
    assert checkpoint is not None, "the command line demands files or a checkpoint"
    generator = restore_generator(checkpoint, generating_device(request.device, communicator.world))
    require_same_readout(readout, generator.geometry, generates=True)
    return GeneratedFor(generator=generator, known=readout, seed=request.seed)


def _numbers(
    samples: Samples, communicator: Communicator, paired: bool
) -> tuple[tuple[dict[str, Measured], ...], dict[str, Measured]]:
    """Return the numbers of each slot and of the whole, on all ranks: two compute half each, all others wait."""
    world, real, fake = communicator.world, samples.real, samples.fake
    second = min(1, world.size - 1)
    slots: tuple[dict[str, Measured], ...] = ()
    whole: dict[str, Measured] = {}
    if world.rank == 0:
        _say("comparing")
        slots, whole = measured_sums(real, fake, paired)
        whole |= measured_frechet(real, fake, paired)
    if world.rank == second:
        whole |= measured_rows(real, fake)
    found = communicator.all_gather_object((slots, whole))
    return found[0][0], {**found[0][1], **found[second][1]}


def _drawn(evaluation: Evaluation, communicator: Communicator) -> Drawings:
    """Draw the figures of the report, on all ranks: two draw half of them each, all others wait."""
    world = communicator.world
    second = min(1, world.size - 1)
    if world.rank == 0:
        _say("drawing the report")
    chapters = draw_chapters(evaluation) if world.rank == 0 else []
    bins = draw_bins(evaluation) if world.rank == second else []
    found = communicator.all_gather_object((chapters, bins))
    return Drawings(chapters=found[0][0], bins=found[second][1])


def _notes(request: EvaluationRequest, samples: Samples) -> list[str]:
    """Return what the reader should know before trusting the numbers."""
    from scipy.stats import ks_2samp

    notes = []
    real, fake = samples.real, samples.fake
    for name, sample in zip(request.names, (real, fake), strict=True):
        if sample.count < LEAST_ROWS:
            errors = f"need at least {LEAST_SHOWERS}" if sample.count < LEAST_SHOWERS else "are rough"
            notes.append(
                f"Only {sample.count} {name} shower{'s' * (sample.count != 1)}: errors and floors {errors}, and FPD, "
                f"KPD, precision and recall need at least {LEAST_ROWS}."
            )
        if sample.wild:
            notes.append(
                f"{sample.wild} {name} showers have an observable more than {FARTHEST:,.0f} standard deviations from "
                "the others: means and widths are cut there, the mean shower and the profiles are not."
            )
        if sample.outside > 0.01 * sample.count:
            notes.append(
                f"{sample.outside:,} of {sample.count:,} {name} showers lie outside of the bins of incident energy."
            )
    if request.fake is not None and fake.faults.get("response", 0) > fake.count / 2:
        notes.append(
            f"The response of most {request.names[1]} showers is far off{_in_another_unit(real, fake)}."
        )
    energies = [np.asarray(sample.rows.conditions[:, 0], dtype=np.float64) for sample in (real, fake)]
    if all(len(values) for values in energies) and ks_2samp(*energies).pvalue < ENERGIES_DIFFER:
        means = [f"{values.mean():.4g}" for values in energies]
        notes.append(
            f"The two samples have different incident energies (mean {means[0]} and {means[1]} GeV): numbers of all "
            "showers compare different mixtures; those of the energy bins are less affected."
        )
    return notes


def _in_another_unit(real: Sample, fake: Sample) -> str:
    """Say which energies of the second sample look like those of another unit, and how to tell it; "" if none do."""
    for what, name, attribute in (
        ("image", "cells", "cell_units"),
        ("energy", "incident energies", "energy_units"),
    ):
        sizes = [abs(float(sample.sums[what].sum())) / max(sample.count, 1) for sample in (fake, real)]
        ratio = sizes[0] / sizes[1] if min(sizes) > 0 else 1.0
        for factor, unit, reference in UNITS:
            if factor / 3 < ratio < 3 * factor:
                size = f"about {float(f'{ratio:.2g}'):,g} times the reference's, as {unit} are beside {reference}"
                return f": its {name} are {size}; if that is so, tell it in the attribute {attribute} of the files"
    return ""


def _facts(
    request: EvaluationRequest,
    checkpoint: Checkpoint | None,
    reference: Files,
    fake: FakeShowers,
    samples: Samples,
    record: EvaluationRecord,
    about: Mapping[str, str],
    communicator: Communicator,
) -> dict[str, dict[str, str]]:
    facts: dict[str, dict[str, str]] = {}
    if checkpoint is not None:
        facts = describe_model(checkpoint, str(request.checkpoint))
        facts["Training"] |= record.facts()
        if record.run_id:  # a checkpoint may know no more than the name of the run's spool
            facts["Model"]["MLflow run"] = record.run_id
    split = "" if reference.split == "all" else f", {reference.split} split"
    real, generated = request.names
    facts["Evaluation"] = {
        real: f"{samples.real.count:,} showers of {reference.config.described}{split}",
        generated: f"{samples.fake.count:,} showers {fake.described}",
        "read-out": reference.manifest.geometry.described,
        "ranks": str(communicator.world.size),
    }
    if samples.speed.seconds:
        speed = samples.speed.showers / samples.speed.seconds
        facts["Evaluation"]["generation"] = f"{speed:,.0f} showers/s on a rank ({1000 / speed:.3g} ms each)"
    for label, tag in (("dist_calo", "dist_calo.version"), ("git commit", "mlflow.source.git.commit")):
        if tag in about:
            facts["Evaluation"][label] = about[tag]
    return facts


def _write(evaluation: Evaluation, out: Path, drawings: Drawings | None) -> list[Path]:
    metrics, report = out / "metrics.json", out / "report.html"
    out.mkdir(parents=True, exist_ok=True)
    with write_whole(metrics) as temporary:
        temporary.write_text(json.dumps(evaluation.to_dict(), indent=1) + "\n")
        # A report of an evaluation before this one would stand beside the wrong numbers.
        report.unlink(missing_ok=True)
        if drawings is not None:
            write_report(evaluation, report, drawings)
    return [metrics] if drawings is None else [metrics, report]


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
