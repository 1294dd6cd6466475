"""Fit the constants of the parametrised showers to Geant4 showers at normal incidence.

    python tools/fit_parametrised.py lcd51 'geant4/*.h5' --name lcd > constants.yaml

Prints an entry for ``dist_calo/simulation/constants.yaml``. The read-outs and the data sets that a file must hold, each
with N rows, are

* ``lcd25``, ``lcd51``: ``ECAL`` (N, X, Y, 25) and ``energy`` (N, 1) in GeV;
* ``layers``: ``layer_0``, ``layer_1``, ``layer_2``, ``energy``, and ``profile`` (N, 80), the sampling layers' energies;
* ``signals``: ``edep`` (N, 66, 3, 3) and ``energy``.

Radii are fitted to the projections of the energy on x and y, at the depths tau = t / T of showers binned in T. For
the rest no likelihood is needed: the moments of each shower's profile, the response and the resolution are computed
from Geant4 and from simulated showers alike, and the constants are changed by the difference until there is none.
That takes sampling fluctuations and leakage out of the fluctuations of T and alpha.
"""

import argparse
import glob
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import h5py
import numpy as np
import yaml

from dist_calo.simulation.beam import NORMAL_INCIDENCE
from dist_calo.simulation.detectors import Detector, Parametrisation, find_detector, images
from dist_calo.simulation.longitudinal import NODES, Longitudinal
from dist_calo.simulation.parametrised import simulate
from dist_calo.simulation.radial import Radial, column_shares

MEDIA = {"lcd": (0.008, 5.1 / 0.9759), "layers": (0.0074, 6.0 / 0.3850), "signals": (0.0074, 6.0 / 0.3661)}
"""Critical energy in GeV of the absorber, and radiation length in mm of absorber and active medium together."""
BINS = 8
"""Bins of the incident energy, and of T, with as many showers each."""
ROUNDS = 10
START = Longitudinal(
    critical_energy=0.008,
    radiation_length=1.0,
    maximum=(-0.86, 1.0),
    alpha=(0.2, 0.55),
    maximum_spread=(0.0, 1.0),
    alpha_spread=(0.0, 0.7),
    correlation=(0.8, 0.0),
)
START_RADIAL = np.log([1.7, 0.6, 5.0, 0.6, 1.5, 0.4, 2.2, 0.45, 1.0])
"""Logarithms of the sizes of the radial constants, in their order."""
PULL = 0.003
"""Weight of a radial constant's change by a factor e, in units of a relative deviation of one bin."""
Line = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is fitted of some showers.

    Attributes:
        energies: in GeV, shape (N,).
        profile: energy of each slice, shape (N, K).
        columns: projections on an axis, one array (N, C) for each layer and axis.
    """

    energies: np.ndarray
    profile: np.ndarray
    columns: dict[tuple[int, str], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the constants of parametrised showers to Geant4.")
    parser.add_argument("detector", choices=("lcd25", "lcd51", "layers", "signals"))
    parser.add_argument("path", nargs="+", help="Geant4 files")
    parser.add_argument("--name", default="fitted", help="name of the entry")
    parser.add_argument("--source", default="", help="what the showers are, kept beside the constants")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    detector = find_detector(options.detector)
    paths = sorted(path for pattern in options.path for path in glob.glob(pattern))
    constants = fit(detector, read(detector, paths), options.seed)
    constants = replace(constants, source=options.source or f"{len(paths)} file(s) of {options.detector}")
    print(yaml.safe_dump({options.name: plain(asdict(constants))}, sort_keys=False, width=110))


def plain(values: Any) -> Any:
    """Numbers of four digits, tuples as lists."""
    if isinstance(values, dict):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, tuple | list):
        return [plain(value) for value in values]
    return values if isinstance(values, str) else float(f"{values:.4g}")


def read(detector: Detector, paths: list[str]) -> Sample:
    """The showers of some files, a few hundred in memory at a time."""
    parts = []
    for path in paths:
        with h5py.File(path, "r") as file:
            for start in range(0, len(file["energy"]), 256):
                rows = slice(start, start + 256)
                profile = file["profile"][rows] if "profile" in file else None
                parts.append(summed(detector, file["energy"][rows, 0], cells(detector, file, rows), profile))
    return joined(parts)


def cells(detector: Detector, file: h5py.File, rows: slice) -> np.ndarray:
    """Cells as the simulation orders them."""
    if detector.name == "layers":
        layers = [file[f"layer_{number}"][rows] for number in range(3)]
        return np.concatenate([layer.reshape(len(layer), -1) for layer in layers], axis=1)
    return np.asarray(file["edep" if detector.name == "signals" else "ECAL"][rows])


def summed(
    detector: Detector, energies: np.ndarray, showers: np.ndarray, profile: np.ndarray | None
) -> Sample:
    """Profiles and projections of cells (n, *cells.shape)."""
    grid, columns = detector.cells, {}
    flat = showers.reshape(len(showers), -1)
    for layer in range(len(grid.first)):
        i, j = np.arange(grid.columns[layer]), np.arange(grid.rows[layer])
        number = grid.first[layer] + i[:, None] * grid.step_x[layer] + j * grid.step_y[layer]
        image = flat[:, number]
        columns[layer, "x"], columns[layer, "y"] = image.sum(2), image.sum(1)
    if profile is None:
        profile = np.stack([columns[layer, "x"].sum(1) for layer in range(len(grid.first))], axis=1)
    return Sample(energies=energies.astype(np.float64), profile=profile.astype(np.float64), columns=columns)


def joined(parts: list[Sample]) -> Sample:
    """All showers of several samples."""
    return Sample(
        energies=np.concatenate([part.energies for part in parts]),
        profile=np.concatenate([part.profile for part in parts]),
        columns={key: np.concatenate([part.columns[key] for part in parts]) for key in parts[0].columns},
    )


def sampling_edges(detector: Detector) -> np.ndarray:
    """Depths in mm between the sampling layers."""
    return detector.pitch * np.arange(round(detector.layer_edges[-1] / detector.pitch) + 1)


def moments(detector: Detector, longitudinal: Longitudinal, profile: np.ndarray) -> np.ndarray:
    """ln T and ln alpha from the mean and the variance of the depth of each profile, shape (2, N)."""
    edges = sampling_edges(detector) / longitudinal.radiation_length
    depth, total = 0.5 * (edges[1:] + edges[:-1]), profile.sum(1)
    mean = profile @ depth / total
    variance = profile @ depth**2 / total - mean**2
    alpha = np.maximum(mean**2 / variance, 1.01)
    return np.log(np.stack([(alpha - 1.0) * variance / mean, alpha]))


def simulated_profiles(
    detector: Detector, constants: Parametrisation, energies: np.ndarray, seed: int
) -> np.ndarray:
    """Energies of the sampling layers, in the whole of the window, of simulated showers, shape (N, K)."""
    edges = sampling_edges(detector)
    side = float(detector.cells.columns[0] * detector.cells.width[0])
    coarse = replace(detector, layer_edges=tuple(edges), cells=images(((1, 1),) * (len(edges) - 1), side))
    numbers, parts = np.random.default_rng(seed), []
    for start in range(0, len(energies), 64):
        some = energies[start : start + 64]
        theta = np.full(len(some), NORMAL_INCIDENCE)
        parts.append(simulate(coarse, constants, some, theta, numbers))
    return np.concatenate(parts).astype(np.float64)


def fit(detector: Detector, sample: Sample, seed: int) -> Parametrisation:
    """The constants that make simulated showers like those of the sample."""
    critical_energy, radiation_length = MEDIA[detector.constants]
    longitudinal = replace(START, critical_energy=critical_energy, radiation_length=radiation_length)
    response = sample.profile.sum(1) / sample.energies
    stochastic = np.var(response / response.mean()) / np.mean(1.0 / sample.energies)
    maximum = np.exp(moments(detector, longitudinal, sample.profile)[0])
    constants = Parametrisation(
        source="",
        energies=(float(sample.energies.min()), float(sample.energies.max())),
        response=float(response.mean()),
        # The sum of N exponential energies has the relative variance 2 / N.
        spot_energy=float(0.5 * stochastic * response.mean()),
        lump_energy=0.0,
        longitudinal=longitudinal,
        radial=fit_radial(detector, sample, maximum, radiation_length),
    )
    for _ in range(ROUNDS):
        profile = simulated_profiles(detector, constants, sample.energies, seed)
        constants = adjusted(detector, constants, sample, profile)
    return constants


def adjusted(
    detector: Detector, constants: Parametrisation, sample: Sample, profile: np.ndarray
) -> Parametrisation:
    """The constants moved by the difference between the sample and the simulated profiles of the same energies."""
    longitudinal, energies = constants.longitudinal, sample.energies
    wanted, found = (moments(detector, longitudinal, some) for some in (sample.profile, profile))
    bins = np.array_split(np.argsort(energies), BINS)
    ln_y = np.array([np.log(energies[rows] / longitudinal.critical_energy).mean() for rows in bins])
    names = ("maximum", "alpha")
    lines: dict[str, Line] = {}
    covariance = np.array([np.cov(wanted[:, rows]) - np.cov(found[:, rows]) for rows in bins])
    spreads = [1.0 / line(getattr(longitudinal, f"{name}_spread"), ln_y) for name in names]
    covariance[:, 0, 1] += line(longitudinal.correlation, ln_y) * spreads[0] * spreads[1]
    for k, name in enumerate(names):
        shift = np.array([(wanted[k, rows] - found[k, rows]).mean() for rows in bins])
        lines[name] = fitted_line(ln_y, line(getattr(longitudinal, name), ln_y) * np.exp(shift))
        variance = np.maximum(covariance[:, k, k] + spreads[k] ** 2, 0.02**2)
        lines[f"{name}_spread"] = fitted_line(ln_y, 1.0 / np.sqrt(variance))
        spreads[k] = np.sqrt(variance)
    lines["correlation"] = fitted_line(
        ln_y, np.clip(covariance[:, 0, 1] / (spreads[0] * spreads[1]), -0.95, 0.95)
    )
    real, fake = sample.profile.sum(1) / energies, profile.sum(1) / energies
    variances = [np.mean(energies * (some / some.mean() - 1.0) ** 2) for some in (real, fake)]
    seen = [by_age(detector, longitudinal, *some) for some in ((sample.profile, wanted), (profile, found))]
    visible = np.clip(np.array(longitudinal.visible) * np.sqrt(seen[0] / seen[1]), 0.25, 4.0).tolist()
    rough = [roughness(some, energies) for some in (sample.profile, profile)]
    return replace(
        constants,
        response=float(constants.response * real.mean() / fake.mean()),
        spot_energy=float(constants.spot_energy * variances[0] / variances[1]),
        # Independent lumps add six of their shares to the square of a second difference.
        lump_energy=max(0.0, constants.lump_energy + (rough[0] - rough[1]) / 6.0),
        longitudinal=Longitudinal(**{**asdict(longitudinal), **lines, "visible": visible}),
    )


def by_age(
    detector: Detector, longitudinal: Longitudinal, profile: np.ndarray, logarithms: np.ndarray
) -> np.ndarray:
    """Share of the energy around each of the nodes of tau, shape (nodes,)."""
    edges = sampling_edges(detector) / longitudinal.radiation_length
    tau = 0.5 * (edges[1:] + edges[:-1]) / np.exp(logarithms[0])[:, None]
    hats = np.eye(len(NODES))
    sums = np.array([(profile * np.interp(tau, NODES, hat)).sum() for hat in hats])
    return np.asarray((sums + 1e-9 * sums.sum()) / sums.sum())


def roughness(profile: np.ndarray, energies: np.ndarray) -> float:
    """Mean sum of squared second differences of the normalised profiles, times the energy."""
    shares = profile / profile.sum(1, keepdims=True)
    return float(np.mean(energies * (np.diff(shares, 2, axis=1) ** 2).sum(1)))


def line(constants: Line, ln_y: np.ndarray) -> np.ndarray:
    """Values of a straight line."""
    return constants[0] + constants[1] * ln_y


def fitted_line(ln_y: np.ndarray, values: np.ndarray) -> Line:
    """The straight line through values of equal weight."""
    slope, offset = np.polyfit(ln_y, values, 1)
    return float(offset), float(slope)


def fit_radial(detector: Detector, sample: Sample, maximum: np.ndarray, radiation_length: float) -> Radial:
    """Radii and weights from the projections of showers binned in T, layer by layer and summed over all layers."""
    grid, edges = detector.cells, sampling_edges(detector)
    depth = 0.5 * (edges[1:] + edges[:-1])
    layer = np.searchsorted(detector.layer_edges, depth) - 1
    bins = np.array_split(np.argsort(maximum), BINS)
    profiles = np.array([sample.profile[rows].sum(0) for rows in bins])
    tau = depth / radiation_length / np.array([maximum[rows].mean() for rows in bins])[:, None]
    measured = {key: np.array([part[rows].sum(0) for rows in bins]) for key, part in sample.columns.items()}
    everything = sum(part.sum() for part in measured.values())
    planes = {
        (number, axis): size[number] * (np.arange(count[number] + 1) - 0.5 * count[number])
        for axis, count, size in (("x", grid.columns, grid.width), ("y", grid.rows, grid.height))
        for number in range(len(grid.first))
    }

    def residuals(values: np.ndarray) -> np.ndarray:
        radii, weights = radial_of(values).components(tau)
        parts: list[np.ndarray] = []
        sums: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
        for key, part in measured.items():
            rows = layer == key[0]
            shares = column_shares(planes[key], radii[:, rows], detector.impact)
            expected = np.einsum(
                "bk,bkm,bkmc->bc", profiles[:, rows], weights[:, rows], shares, optimize=True
            )
            expected *= part.sum(1, keepdims=True) / expected.sum(1, keepdims=True)
            parts.append(relative(expected, part, everything))
            name = (len(planes[key]), key[1])
            zero = np.zeros(part.shape[1])
            before = sums.get(name, (zero, zero))
            sums[name] = (before[0] + expected.sum(0), before[1] + part.sum(0))
        parts += [3.0 * relative(expected, part, everything) for expected, part in sums.values()]
        return np.concatenate(parts)

    return radial_of(least_squares(residuals, START_RADIAL))


def least_squares(
    residuals: Callable[[np.ndarray], np.ndarray], values: np.ndarray, steps: int = 40
) -> np.ndarray:
    """Levenberg and Marquardt's minimum of a sum of squares, with a weak pull to the start against degeneracy."""
    start, damping = values, 0.1

    def pulled(at: np.ndarray) -> np.ndarray:
        return np.concatenate([residuals(at), PULL * (at - start)])

    found = pulled(values)
    for _ in range(steps):
        jacobian = np.stack(
            [(pulled(values + 1e-4 * unit) - found) / 1e-4 for unit in np.eye(len(values))], 1
        )
        normal = jacobian.T @ jacobian
        step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), jacobian.T @ found)
        tried = values + np.clip(step, -0.5, 0.5)
        there = pulled(tried)
        if there @ there < found @ found:
            gained = 1.0 - (there @ there) / (found @ found)
            values, found, damping = tried, there, damping / 3.0
            if gained < 1e-5:
                break
        else:
            damping *= 5.0
    return values


def radial_of(values: np.ndarray) -> Radial:
    """Constants from the logarithms of their sizes; the first exponent of the tail is negative."""
    c0, c1, k1, k2, k3, k4, p1, p2, p3 = (float(value) for value in np.exp(np.clip(values, -8.0, 5.0)))
    return Radial(core=(c0, c1), tail=(k1, k2, -k3, k4), weight=(p1, p2, p3))


def relative(expected: np.ndarray, part: np.ndarray, everything: float) -> np.ndarray:
    """Relative deviations, those of bins with little energy with less weight."""
    seen = part > 1e-5 * everything
    return np.asarray((expected[seen] / part[seen] - 1.0) * np.sqrt(part[seen] / everything))


if __name__ == "__main__":
    main()
