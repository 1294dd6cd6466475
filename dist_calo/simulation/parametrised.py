"""Parametrised electron showers after Grindhammer and Peters (hep-ex/0001020): energy spots summed in cells.

A shower draws its longitudinal profile; slices of it fluctuate against each other, as particles deposit in lumps what
the profile spreads evenly; each slice draws a Poisson number of spots for core and tail, each spot an exponential
energy and a place around the axis. So layers fluctuate as a sampling calorimeter's do, and a cell holds whole spots
or nothing.
"""

import math

import numpy as np

from dist_calo.simulation.detectors import Cells, Detector, Parametrisation


def simulate(
    detector: Detector,
    constants: Parametrisation,
    energies: np.ndarray,
    theta: np.ndarray,
    numbers: np.random.Generator,
) -> np.ndarray:
    """Simulate showers of given energies and angles, float32 with shape (n, *cells.shape), in GeV.

    A tilted axis meets a layer after a longer way and further along y, and the layer cuts the shower obliquely: the
    spots in it spread around the axis, in y by 1 / sin(theta) wider.

    Args:
        detector: where they are read out.
        constants: the parametrisation.
        energies: incident energies in GeV, shape (n,).
        theta: polar angles in rad, shape (n,); pi/2 is normal incidence, a smaller one leans towards larger y.
        numbers: source of all random numbers.
    """
    count, longitudinal = len(energies), constants.longitudinal
    impact = detector.impact * (numbers.random((count, 2)) - 0.5)
    impact += detector.spot * numbers.standard_normal((count, 2))
    edges = detector.slices
    middle = 0.5 * (edges[1:] + edges[:-1])
    layer = np.searchsorted(detector.layer_edges, middle) - 1
    sine = np.sin(theta)[:, None]
    alpha, maximum = longitudinal.draw(energies, numbers.standard_normal((count, 2)))
    shares = longitudinal.visible_shares(alpha, maximum, edges / sine)
    if constants.lump_energy > 0:
        shares = dirichlet_shares(shares, energies / constants.lump_energy, numbers)
    tau = middle / sine / longitudinal.radiation_length / maximum[:, None]
    radii, weights = constants.radial.components(tau)
    spots = (constants.response / constants.spot_energy) * energies[:, None] * shares
    # Core and tail of each slice of each shower, in this order: shape (n, K, 2).
    counts = numbers.poisson(spots[:, :, None] * weights)

    def of_spots(values: np.ndarray) -> np.ndarray:
        """Return values that broadcast to (n, K, 2) for each spot."""
        return np.repeat(np.broadcast_to(values, counts.shape).ravel(), counts.ravel())

    x, y = places(of_spots(radii.astype(np.float32)), numbers)
    deposits = numbers.standard_exponential(len(x), dtype=np.float32)
    deposits *= np.float32(constants.spot_energy)
    axis = impact[:, 1:] + (middle - detector.pivot) * np.cos(theta)[:, None] / sine
    x += of_spots(impact[:, 0, None, None].astype(np.float32))
    y *= of_spots((1.0 / sine)[:, :, None].astype(np.float32))
    y += of_spots(axis[:, :, None].astype(np.float32))
    first = math.prod(detector.cells.shape) * np.arange(count)[:, None, None]
    base = of_spots(first + detector.cells.first[layer][:, None])
    return deposit_in_cells(detector.cells, count, of_spots(layer[:, None]), base, x, y, deposits)


def dirichlet_shares(shares: np.ndarray, lumps: np.ndarray, numbers: np.random.Generator) -> np.ndarray:
    """Draw Dirichlet-distributed shares about the given ones, with the same sum.

    Args:
        shares: shape (n, K).
        lumps: a share f fluctuates by sqrt(f (1 - f) / (lumps + 1)), shape (n,).
        numbers: source of random numbers.
    """
    drawn = numbers.standard_gamma(lumps[:, None] * shares)
    return np.asarray(drawn * (shares.sum(axis=1) / drawn.sum(axis=1))[:, None])


def places(radii: np.ndarray, numbers: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the positions of spots around the axis, in the plane across it.

    Args:
        radii: radius R of each spot's component, float32 with shape (spots,); a radius r holds r^2 / (r^2 + R^2).
        numbers: source of random numbers.

    Returns:
        Two coordinates of each spot in the unit of the radii, float32 with shape (spots,).
    """
    contained = numbers.random(len(radii), dtype=np.float32)
    distance = np.sqrt(contained / (np.float32(1.0) - contained))
    distance *= radii
    azimuth = numbers.random(len(radii), dtype=np.float32)
    azimuth *= np.float32(2.0 * math.pi)
    return distance * np.cos(azimuth), distance * np.sin(azimuth)


def deposit_in_cells(
    cells: Cells,
    count: int,
    layer: np.ndarray,
    base: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    deposits: np.ndarray,
) -> np.ndarray:
    """Sum the energies of spots in their cells; those outside the window are lost.

    Args:
        cells: where the cells lie.
        count: number n of showers.
        layer: layer of each spot, shape (spots,).
        base: number of the first cell of the spot's shower and layer, shape (spots,).
        x: place from the middle of the window in mm, shape (spots,).
        y: the same in y.
        deposits: energies, shape (spots,).

    Returns:
        Energies of the cells, float32 with shape (n, *cells.shape).
    """

    def of_layer(values: np.ndarray) -> np.ndarray:
        """Return numbers of each layer for each spot; one number where all layers agree."""
        return values[0] if (values == values[0]).all() else values[layer]

    columns, rows = of_layer(cells.columns), of_layer(cells.rows)
    column = np.floor(x * of_layer((1.0 / cells.width).astype(np.float32)) + 0.5 * columns.astype(np.float32))
    row = np.floor(y * of_layer((1.0 / cells.height).astype(np.float32)) + 0.5 * rows.astype(np.float32))
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    column *= inside
    row *= inside
    number = base + column.astype(np.int64) * of_layer(cells.step_x)
    number += row.astype(np.int64) * of_layer(cells.step_y)
    size = count * math.prod(cells.shape)
    summed = np.bincount(number, weights=deposits * inside, minlength=size)
    return summed.astype(np.float32).reshape(count, *cells.shape)
