"""Evaluations of arrays of showers, without files or ranks, and what the command wrote of one."""

import json

import numpy as np

from dist_calo.physics.metrics.evaluation import Evaluation, measured_sums
from dist_calo.physics.observables.energy_bins import Binning
from dist_calo.physics.observables.examples import Examples
from dist_calo.physics.observables.observer import observer_of
from dist_calo.physics.observables.sample import Sample

BATCH = 512


def evaluated(geometry, real, fake, edges=None, share=1.0):
    """The evaluation of two samples, each a pair of showers (n, *shape) and conditions (n, C)."""
    observer = observer_of(geometry)
    columns = observer.observe(*real).columns
    binning = Binning.of(columns, real[1][:, 0], edges)
    samples = [sample_of(observer, binning, geometry, *part, share=share) for part in (real, fake)]
    examples = Examples(real=real[0][:4], fake=fake[0][:4], energies=real[1][:4, 0])
    slots, whole = measured_sums(*samples)
    return Evaluation(
        geometry=geometry,
        real=samples[0],
        fake=samples[1],
        slots=slots,
        whole=whole,
        examples=examples,
    )


def sample_of(observer, binning, geometry, showers, conditions, share=0.0, ids=None):
    """Sums over showers, batch by batch."""
    sample = Sample(observer, binning, geometry.shape, share=share)
    ids = np.arange(len(showers)) if ids is None else ids
    for first in range(0, len(showers), BATCH):
        part = slice(first, first + BATCH)
        sample.add(ids[part], showers[part], conditions[part])
    return sample


def metrics_of(folder):
    """What ``metrics.json`` in a folder holds, read strictly: NaN and infinity are no JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)
