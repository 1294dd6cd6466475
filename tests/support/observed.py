"""What holds for every observer of showers."""

import numpy as np


def check_described(observer, geometry):
    """Everything that is observed has a name, a label with its unit and a place, also where there is no shower."""
    names = [feature.name for feature in observer.features]
    groups = {feature.group for feature in observer.features}
    assert len(set(names)) == len(names)
    assert set(observer.labels) == groups
    assert set(observer.correlated) <= set(names)
    assert len(set(observer.correlated)) == len(observer.correlated) <= 12
    assert set(observer.summary_groups) <= groups
    numbered = {feature.group for feature in observer.features if feature.index}
    assert numbered <= set(observer.indexed_by) <= groups
    units = {feature.group: feature.unit for feature in observer.features}
    assert all(f"[{unit}]" in observer.labels[group] for group, unit in units.items() if unit)
    none = observer.observe(
        np.zeros((0, *geometry.shape), np.float32), np.zeros((0, len(geometry.conditions)))
    )
    assert none.columns.shape == (0, len(names))
    assert {name: values.shape[1] for name, values in none.profiles.items()} == {
        name: profile.width for name, profile in observer.profiles.items()
    }
