"""How quickly the loader hands out showers, against h5py reading the same bytes in whole chunks.

    python benchmarks/bench_loader.py
    python benchmarks/bench_loader.py --path 'FILES.h5' --repeats 7 --ranks 4

Without --path two data sets are measured: the sample (gzip) and a temporary file without compression. Both
readers go through the same training split, alternately, after an unmeasured round that fills the page cache:
what is compared is the work of the programs, not the disk. Prints medians and the range of the repeats, in
showers/s and MB/s of float32 cells.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from dist_calo.config import DataConfig
from dist_calo.data.formats import ShowerWriter
from dist_calo.data.loader import Loader
from dist_calo.data.manifest import Manifest, build_manifest
from dist_calo.data.order import Order
from dist_calo.data.row_blocks import Blocks, split_blocks
from dist_calo.geometry import VoxelGrid

SAMPLE = Path(__file__).resolve().parent.parent / "data" / "sample" / "*.h5"


def main() -> None:
    parser = argparse.ArgumentParser(description="The loader against h5py reading whole chunks.")
    parser.add_argument("--path", help="shower files or glob to measure instead of the two data sets")
    parser.add_argument("--rows", type=int, default=6000, help="showers of the temporary file (default 6000)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each reader (default 5)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a measurement (default 4)")
    parser.add_argument("--batch-size", type=int, default=64, help="global batch size (default 64)")
    parser.add_argument("--ranks", type=int, default=1, help="measure rank 0 of this many ranks (default 1)")
    options = parser.parse_args()
    if options.path:
        measure(options.path, options.path, options)
        return
    measure("sample, gzip", str(SAMPLE), options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "EleEscan_uncompressed.h5"
        make_file(path, options.rows)
        measure("no compression", str(path), options)


def make_file(path: Path, rows: int) -> None:
    """Showers of the shape of LCD files with arbitrary contents, without compression."""
    numbers = np.random.default_rng(0)
    with ShowerWriter(path, VoxelGrid(shape=(25, 25, 25)), compression="none") as writer:
        for _ in range(0, rows, 500):
            energies = 10 + numbers.random((500, 1), np.float32)
            writer.append(numbers.random((500, 25, 25, 25), np.float32), energies)


def measure(title: str, path: str, options: argparse.Namespace) -> None:
    config = DataConfig(path=path)
    manifest = build_manifest(config)
    blocks = split_blocks(manifest, "train", config)
    readers: dict[str, Callable[[], int]] = {
        "h5py": lambda: sum(read_chunks(manifest, blocks) for _ in range(options.epochs)),
        "loader": lambda: read_batches(manifest, config, blocks, options),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for repeat in range(options.repeats + 1):
        for name, read in readers.items():
            began = time.perf_counter()
            showers = read()
            if repeat:
                rates[name].append(showers / (time.perf_counter() - began))
    chunk = manifest.files[0].chunk_rows
    print(f"{title}: {blocks.samples} showers of {manifest.geometry.shape}, chunks of {chunk}")
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values):.0f} to {max(values):.0f}"
        megabytes = middle * 4e-6 * manifest.geometry.cells
        print(f"  {name:7} {middle:8.0f} showers/s ({spread}), {megabytes:.0f} MB/s")
    ratio = statistics.median(rates["loader"]) / statistics.median(rates["h5py"])
    print(f"  loader / h5py = {100 * ratio:.0f} %")


def read_chunks(manifest: Manifest, blocks: Blocks) -> int:
    """Read every block of the split into one buffer, in the order of the files, and nothing else."""
    buffer = np.empty((int(blocks.rows.max()), *manifest.geometry.shape), np.float32)
    files = np.searchsorted(manifest.first_ids, blocks.first_ids, side="right") - 1
    for number, entry in enumerate(manifest.files):
        mine = files == number
        starts = blocks.first_ids[mine] - manifest.first_ids[number]
        with h5py.File(entry.path, "r") as file:
            cells = file["ECAL"]
            for start, rows in zip(starts, blocks.rows[mine], strict=True):
                cells.read_direct(buffer[:rows], np.s_[start : start + rows])
    return blocks.samples


def read_batches(manifest: Manifest, config: DataConfig, blocks: Blocks, options: argparse.Namespace) -> int:
    """Some epochs of one rank's batches; the start of the loader's thread counts."""
    order = Order(blocks, seed=0, global_batch_size=options.batch_size, window=config.shuffle_window)
    ahead = config.prefetch_batches
    with Loader(manifest, order, size=options.ranks, epochs=options.epochs, prefetch_batches=ahead) as loader:
        return sum(len(batch.ids) for batch in loader)


if __name__ == "__main__":
    main()
