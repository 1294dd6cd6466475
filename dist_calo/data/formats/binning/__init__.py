"""Binning files of the CaloChallenge, which define the cells of each layer.

A file holds ``<Bins>``, in it a ``<Bin>`` for each particle (``pid`` and ``name``), in that a ``<Layer>`` for each
layer: ``id``, ``r_edges`` (edges of the rings in mm, separated by commas; one edge means that the layer is not read
out) and ``n_bin_alpha`` (sectors). Those of the challenge's four data sets lie beside this module, with the edges of
https://github.com/CaloChallenge/homepage.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from dist_calo.documents import read_text
from dist_calo.errors import ConfigError, DataError
from dist_calo.geometry import CylindricalLayers

OWN_FILES = tuple(sorted(Path(__file__).parent.glob("*.xml")))
"""The binning files of the package."""
PARTICLES = {"22": "gamma", "11": "e-", "-11": "e+", "211": "pi+-", "-211": "pi+-", "111": "pi0"}
"""Particles by the number that the Particle Data Group gives them."""


@dataclass(frozen=True, kw_only=True)
class CellBinning:
    """Cells of the showers of one particle."""

    geometry: CylindricalLayers
    particle: str | None
    """As the package names it; None where the file does not say."""
    names: tuple[str, ...]
    """Name and number of the particle in the file."""


def parse_binning(text: str, source: str) -> list[CellBinning]:
    """Parse the binnings in the text of a binning file.

    Args:
        text: XML.
        source: what an error calls it.

    Raises:
        DataError: if the text is no XML, holds no ``<Bin>``, or a layer lacks something.
    """
    if "<!DOCTYPE" in text:  # entities of entities would fill the memory
        raise DataError(
            f"{source}: has a document type, which a binning file does not need; leave <!DOCTYPE ...> out"
        )
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{source}: not an XML file ({error})") from error
    bins = root.findall("Bin") if root.tag == "Bins" else []
    if not bins:
        raise DataError(f"{source}: no binning file: it must hold <Bins> and in it a <Bin> for each particle")
    return [_binning(element, source) for element in bins]


def read_binning(path: str | Path) -> list[CellBinning]:
    """Read the binnings in a file; raises as `parse_binning` does, and where it cannot be read."""
    try:
        text = read_text(Path(path).expanduser())
    except ConfigError as error:
        raise DataError(f"the binning file cannot be read: {error}") from error
    return parse_binning(text, str(path))


def binning_text(geometry: CylindricalLayers, particle: str | None = None) -> str:
    """Return a binning file for a geometry; `parse_binning` is its inverse."""
    root = ElementTree.Element("Bins")
    number = next((number for number, name in PARTICLES.items() if name == particle), None)
    told = {"pid": number, "name": particle}
    bin_ = ElementTree.SubElement(root, "Bin", {name: value for name, value in told.items() if value})
    for layer, (edges, sectors) in enumerate(zip(geometry.r_edges, geometry.sectors, strict=True)):
        values = {
            "id": str(layer),
            "r_edges": ",".join(repr(edge) for edge in edges),
            "n_bin_alpha": str(sectors),
        }
        ElementTree.SubElement(bin_, "Layer", values)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def with_voxels(binnings: Iterable[CellBinning], voxels: int) -> list[CellBinning]:
    """Return the binnings with this number of voxels."""
    return [binning for binning in binnings if binning.geometry.cells == voxels]


def _binning(element: ElementTree.Element, source: str) -> CellBinning:
    layers: dict[int, tuple[tuple[float, ...], int]] = {}
    for layer in element.findall("Layer"):
        try:
            number, sectors = int(layer.attrib["id"]), int(layer.attrib["n_bin_alpha"])
            edges = tuple(float(edge) for edge in layer.attrib["r_edges"].split(",") if edge.strip())
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{source}: layer {layer.attrib}: needs numbers id, r_edges (separated by commas) and n_bin_alpha "
                f"({type(error).__name__}: {error})"
            ) from error
        if number in layers or not 0 <= number < 10_000:
            raise DataError(f"{source}: layer id {number}: each is given once, counted from 0")
        layers[number] = edges, sectors
    # Ids that are left out are layers without cells.
    ordered = [layers.get(number, ((), 1)) for number in range(max(layers, default=-1) + 1)]
    try:
        geometry = CylindricalLayers(
            r_edges=tuple(edges for edges, _ in ordered), sectors=tuple(sectors for _, sectors in ordered)
        )
    except ConfigError as error:
        raise DataError(f"{source}: {error}") from error
    pid, name = element.get("pid"), element.get("name")
    return CellBinning(
        geometry=geometry,
        particle=PARTICLES.get(pid or "", name),
        names=tuple(told for told in (name, pid) if told),
    )
