"""Classifier test: a neural network learns to separate generated showers from real ones.

As the CaloChallenge does it (arXiv:2410.21611, ``evaluate.py`` of its public code): a fully connected network of 2
hidden layers of 2,048 with leaky ReLU (slope 0.01) and no dropout learns with binary cross entropy, Adam with a
learning rate of 2e-4 and batches of 1,000 on 60 % of both samples; after each of 50 epochs its accuracy is measured on
another 20 %, and the best epoch counts. Isotonic regression on that part calibrates the probabilities of being real;
the last 20 % give

- AUC, the area under the receiver operating characteristic of the calibrated probabilities: 0.5 if the network finds
  no difference, 1 if it separates all showers;
- JSD, the Jensen-Shannon divergence ``1 - BCE / ln 2`` in bits, with BCE the mean binary cross entropy of the
  calibrated probabilities: 0 and 1 in the same cases. It is a lower bound, and for samples of one distribution
  it comes out somewhat below 0, by what the calibration learned of its own rows.

A network that was trained too briefly or is too small finds less than there is: numbers are only comparable at the same
settings and sample sizes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dist_calo.randomness import derived_seed

if TYPE_CHECKING:
    import torch

SPLIT = (0.6, 0.2)
"""Parts of the rows for training and for validation; the rest is for the test."""
REPLICAS = 200
"""Bootstrap samples of the test rows."""
CLIP = 1e-6
"""Calibrated probabilities lie between this and 1 minus this."""
LEAST_ROWS = 20
"""Least number of rows of each sample for a training."""
SLICE = 8192
"""Rows evaluated at once, which bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class ClassifierResult:
    """Result of a classifier on the test rows.

    Attributes:
        auc: area under the curve of the calibrated probabilities.
        auc_error: its bootstrap error over the test rows, without the fluctuations of the training itself.
        jsd: Jensen-Shannon divergence in bits.
        jsd_error: its bootstrap error.
        auc_uncalibrated: area under the curve of the network's own output, which has no ties.
        accuracy: part of the test rows on the right side of 0.5 after calibration.
        epochs: epochs trained; fewer than requested if all validation rows were classified correctly.
        best_epoch: the epoch whose network was used, counted from 1.
        rows: rows of each sample that were used.
        test_rows: those of them in the test.
    """

    auc: float
    auc_error: float
    jsd: float
    jsd_error: float
    auc_uncalibrated: float
    accuracy: float
    epochs: int
    best_epoch: int
    rows: int
    test_rows: int


def classify(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    seed: int,
    epochs: int = 50,
    hidden: int = 2048,
    layers: int = 2,
    batch_size: int = 1000,
    learning_rate: float = 2e-4,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> ClassifierResult:
    """Train a classifier on two samples of rows and test it.

    Both samples are cut to the size of the smaller one, at random. The result depends on the seed and, through rounding
    alone, on the number of threads and the device. No global random state is touched.

    Args:
        real: rows of the real sample, shape (n, F); see `low_level_rows`.
        fake: rows of the generated sample, shape (m, F).
        seed: of the split, the first weights and the order of the batches.
        epochs: passes over the training rows.
        hidden: width of the hidden layers.
        layers: number of hidden layers.
        batch_size: rows of a batch.
        learning_rate: of Adam.
        device: where to train, as PyTorch names it.
        say: called with one line for each epoch.

    Raises:
        ValueError: if the features differ in number, a value is not finite, a sample has fewer than 20 rows, or a
            setting is below 1.
    """
    import torch
    from sklearn.isotonic import IsotonicRegression

    _check(real, fake, epochs=epochs, hidden=hidden, layers=layers, batch_size=batch_size)
    used = min(len(real), len(fake))
    rows, labels = _split(real, fake, used, seed)
    generator = torch.Generator().manual_seed(derived_seed(seed, "classifier") >> 1)
    network = _network(real.shape[1], hidden, layers, generator).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    data, targets = rows["train"].to(device), torch.from_numpy(labels["train"]).float().to(device)
    best, best_epoch, best_weights, epoch = -1.0, 0, {}, 0
    for epoch in range(1, epochs + 1):
        loss = _train_epoch(network, optimizer, data, targets, batch_size, generator)
        accuracy = float(np.mean((_judge(network, rows["validation"]) > 0.5) == labels["validation"]))
        if accuracy > best:
            best, best_epoch = accuracy, epoch
            best_weights = {name: value.clone() for name, value in network.state_dict().items()}
        if say is not None:
            say(f"classifier: epoch {epoch}/{epochs}, loss {loss:.4f}, validation accuracy {accuracy:.4f}")
        if accuracy == 1.0:
            break
    network.load_state_dict(best_weights)
    calibration = IsotonicRegression(y_min=CLIP, y_max=1.0 - CLIP, out_of_bounds="clip")
    calibration.fit(_judge(network, rows["validation"]), labels["validation"])
    output, truth = _judge(network, rows["test"]), labels["test"]
    probability = calibration.predict(output)
    auc_error, jsd_error = _bootstrap_errors(probability, truth, seed)
    return ClassifierResult(
        auc=area_under_curve(probability, truth),
        auc_error=auc_error,
        jsd=jensen_shannon(probability, truth),
        jsd_error=jsd_error,
        auc_uncalibrated=area_under_curve(output, truth),
        accuracy=float(np.mean((probability > 0.5) == truth)),
        epochs=epoch,
        best_epoch=best_epoch,
        rows=used,
        test_rows=len(truth) // 2,
    )


def area_under_curve(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the probability that a real row scores above a generated one, ties counting half (Mann and Whitney).

    Args:
        score: shape (n,).
        truth: 1 for real and 0 for generated rows, shape (n,).
    """
    return _area(np.unique(score, return_inverse=True)[1], truth, np.ones(len(truth)))


def jensen_shannon(probability: np.ndarray, truth: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence in bits, ``1 - BCE / ln 2``, for as many real as generated rows.

    Args:
        probability: of being real, within (0, 1), shape (n,).
        truth: 1 for real and 0 for generated rows, shape (n,).
    """
    return float(np.mean(_bits(probability, truth)))


def low_level_rows(showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Return the cells of showers as the input of the CaloChallenge's low-level classifier.

    The decimal logarithm of the incident energy in MeV, then each cell in percent of the incident energy.

    Args:
        showers: cell energies in GeV, shape (n, *shape).
        energies: incident energies in GeV, shape (n,), above 0.

    Returns:
        float32 rows of shape (n, cells + 1).

    Raises:
        ValueError: if the numbers of showers and energies differ or an energy is not above 0.
    """
    energies = np.asarray(energies, dtype=np.float64).reshape(-1)
    if len(showers) != len(energies):
        raise ValueError(
            f"{len(showers)} showers with {len(energies)} incident energies: each shower needs one"
        )
    if not (energies > 0).all():
        raise ValueError(
            f"an incident energy of {energies.min():g} GeV: the logarithm needs energies above 0"
        )
    cells = showers.reshape(len(showers), -1)
    rows = np.empty((len(cells), cells.shape[1] + 1), dtype=np.float32)
    rows[:, 0] = np.log10(1000.0 * energies)
    np.multiply(cells, (100.0 / energies)[:, None], out=rows[:, 1:], casting="same_kind")
    return rows


def _check(real: np.ndarray, fake: np.ndarray, **settings: int) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"samples of shapes {real.shape} and {fake.shape}: rows of the same features are needed"
        )
    if min(len(real), len(fake)) < LEAST_ROWS:
        raise ValueError(
            f"samples of {len(real)} and {len(fake)} rows: a classifier needs at least {LEAST_ROWS} of each"
        )
    if not (np.isfinite(real).all() and np.isfinite(fake).all()):
        raise ValueError("a feature is not finite: fill missing features first")
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"{name} {value}: at least 1 is needed")


def _split(
    real: np.ndarray, fake: np.ndarray, used: int, seed: int
) -> "tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]":
    """Return rows (2 n, F) and labels (2 n,) of ``train``, ``validation`` and ``test``: real first, labelled 1."""
    import torch

    numbers = np.random.default_rng(derived_seed(seed, "split"))
    ends = [int(SPLIT[0] * used), int(SPLIT[0] * used) + int(SPLIT[1] * used)]
    parts = [np.split(numbers.permutation(len(sample))[:used], ends) for sample in (real, fake)]
    rows: dict[str, torch.Tensor] = {}
    labels: dict[str, np.ndarray] = {}
    for name, first, second in zip(("train", "validation", "test"), *parts, strict=True):
        merged = np.empty((len(first) + len(second), real.shape[1]), dtype=np.float32)
        merged[: len(first)], merged[len(first) :] = real[first], fake[second]
        rows[name] = torch.from_numpy(merged)
        labels[name] = np.repeat([1, 0], [len(first), len(second)])
    return rows, labels


def _network(features: int, hidden: int, layers: int, generator: "torch.Generator") -> "torch.nn.Sequential":
    """Return the classifier, initialised by PyTorch's defaults from its own generator. Its output are logits."""
    import torch

    widths, modules = [features, *[hidden] * layers], []
    for inputs, outputs in zip(widths, [*widths[1:], 1], strict=True):
        linear = torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        modules += [linear, torch.nn.LeakyReLU()]
    return torch.nn.Sequential(*modules[:-1])


def _train_epoch(
    network: "torch.nn.Sequential",
    optimizer: "torch.optim.Optimizer",
    data: "torch.Tensor",
    targets: "torch.Tensor",
    batch_size: int,
    generator: "torch.Generator",
) -> float:
    """Train on all rows once, in random order, and return the mean loss."""
    import torch

    total = torch.zeros((), device=data.device)
    for batch in torch.randperm(len(data), generator=generator).to(data.device).split(batch_size):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            network(data[batch]).squeeze(1), targets[batch]
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(batch)
    return float(total) / len(data)


def _judge(network: "torch.nn.Sequential", rows: "torch.Tensor") -> np.ndarray:
    """Return the predicted probability that each row is real, float64."""
    import torch

    device = next(network.parameters()).device
    with torch.no_grad():
        logits = torch.cat([network(part.to(device)).squeeze(1).cpu() for part in rows.split(SLICE)])
    return torch.sigmoid(logits.double()).numpy()


def _area(place: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    """Return the area under the curve from the ranks of the scores among all different scores."""
    real = np.bincount(place, weights * truth)
    fake = np.bincount(place, weights * (1 - truth), minlength=len(real))
    return float(real @ (np.cumsum(fake) - fake / 2) / (real.sum() * fake.sum()))


def _bits(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the contribution of each row to the Jensen-Shannon divergence, which is their mean."""
    return np.asarray(1.0 + np.log2(np.where(truth == 1, probability, 1.0 - probability)))


def _bootstrap_errors(probability: np.ndarray, truth: np.ndarray, seed: int) -> tuple[float, float]:
    """Return bootstrap errors of the area under the curve and of the divergence; class sizes are fixed."""
    numbers = np.random.default_rng(derived_seed(seed, "bootstrap"))
    place, bits = np.unique(probability, return_inverse=True)[1], _bits(probability, truth)
    classes = [np.flatnonzero(truth == label) for label in (0, 1)]
    found = np.empty((REPLICAS, 2))
    for replica in found:
        drawn = np.concatenate([numbers.choice(rows, len(rows)) for rows in classes])
        weights = np.bincount(drawn, minlength=len(truth)).astype(np.float64)
        replica[:] = _area(place, truth, weights), bits @ weights / len(truth)
    auc_error, jsd_error = found.std(axis=0)
    return float(auc_error), float(jsd_error)
