"""Samples that went wrong in a known way, made from simulated showers."""

import numpy as np

from dist_calo.geometry import VoxelGrid

GRID = VoxelGrid(shape=(25, 25, 25))


def scaled(showers, conditions):
    """All energies 2 % too high."""
    return showers * np.float32(1.02), conditions


def shifted(showers, conditions):
    """All showers a tenth of a layer deeper: a tenth of each layer's energy goes to the next one."""
    deeper = 0.9 * showers
    deeper[..., 1:] += 0.1 * showers[..., :-1]
    return deeper.astype(np.float32), conditions


def with_a_dead_cell(showers, conditions):
    """One cell beside the axis, at the shower maximum, is dead."""
    dead = showers.copy()
    dead[:, 13, 12, 7] = 0.0
    return dead, conditions


def with_shuffled_layers(showers, conditions):
    """Each layer is that of another shower of nearly the same energy: layers are right, but do not go together."""
    order = np.argsort(conditions[:, 0])
    ordered, mixed = showers[order], np.empty_like(showers)
    for layer in range(showers.shape[-1]):
        mixed[order, ..., layer] = np.roll(ordered[..., layer], layer, axis=0)
    return mixed, conditions


def collapsed(showers, conditions):
    """One shower in ten, again and again, for the energies of its neighbours."""
    order = np.argsort(conditions[:, 0])
    source = order[(np.arange(len(order)) // 10) * 10]
    again = np.empty_like(showers)
    scale = conditions[order, 0] / conditions[source, 0]
    again[order] = showers[source] * scale[:, None, None, None].astype(np.float32)
    return again, conditions
