"""Figures as images within the page."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_DPI = 150
"""About two dots for each of a screen's where a figure fills the page."""
COLOURS = 256
"""Of a PNG without maps: it needs no more, and its file is a third of the size."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image.

    Attributes:
        source: its data URI.
        alt: what it shows, in words, for those who do not see it.
        caption: below it.
        width: in px of the screen.
        height: in px of the screen.
    """

    source: str
    alt: str
    caption: str
    width: int
    height: int


def picture(figure: "Figure", alt: str, caption: str, vector: bool = False, shades: bool = False) -> Picture:
    """Draw a figure.

    Args:
        figure: of matplotlib.
        alt: what it shows, in words.
        caption: below it.
        vector: as SVG, sharp at any size, for a few lines; else as PNG.
        shades: keep every colour, for maps.
    """
    kind, data = ("svg+xml", _svg(figure)) if vector else ("png", _png(figure, shades))
    width, height = (round(float(size) * 96) for size in figure.get_size_inches())
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(source=source, alt=alt, caption=caption, width=width, height=height)


def _svg(figure: "Figure") -> bytes:
    written = io.BytesIO()
    # Without the date and the addresses of the metadata's vocabulary.
    figure.savefig(
        written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    return written.getvalue()


def _png(figure: "Figure", shades: bool) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(PNG_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # What matplotlib would write is compressed once instead of twice.
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if not shades:
        image = image.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        # What stands for the background is not quite white.
        palette, white = image.getpalette() or [], int(np.asarray(image)[0, 0])
        palette[3 * white : 3 * white + 3] = 255, 255, 255
        image.putpalette(palette)
    packed = io.BytesIO()
    image.save(packed, format="png", compress_level=6)
    return packed.getvalue()
