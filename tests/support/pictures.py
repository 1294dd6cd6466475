"""Helpers of the tests of figures."""

import matplotlib.image


def contrast(figure, folder) -> float:
    """Write a figure as PNG and return the standard deviation of its brightness."""
    path = folder / "figure.png"
    figure.savefig(path, dpi=120)
    picture = matplotlib.image.imread(path)
    assert min(picture.shape[:2]) > 250
    return float(picture[..., :3].std())
