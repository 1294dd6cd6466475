"""Helpers of the tests of figures."""

import matplotlib.image

from dist_calo.physics.figures.panels import save_png


def contrast(figure, folder) -> float:
    """Write a figure as PNG and return the standard deviation of its brightness."""
    path = save_png(figure, folder / "new" / "figure.png")
    assert path == folder / "new" / "figure.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    picture = matplotlib.image.imread(path)
    assert min(picture.shape[:2]) > 250
    return float(picture[..., :3].std())
