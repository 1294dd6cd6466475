"""Summary of an evaluation in a few lines of text."""

import math

from dist_calo.physics.metrics.evaluation import Evaluation, sigmas_above_floor


def summary_lines(evaluation: Evaluation) -> list[str]:
    """Return the score, how many numbers are near their floor, and the five that are farthest from it."""
    known = [item for item in evaluation.numbers.items() if not math.isnan(sigmas_above_floor(*item))]
    numbers = sorted(known, key=lambda item: -sigmas_above_floor(*item))
    lines: list[str] = []
    if evaluation.bad_in_words:
        lines.append(evaluation.bad_in_words)
    meaning = f"mean Wasserstein-1 distance of the observables / {evaluation.names[0]}'s sigma"
    for what in ("score", "errors"):
        if what in evaluation.absent:
            lines.append(f"{what} unknown: {evaluation.absent[what]}")
    if math.isfinite(evaluation.score):
        lines.append(f"score {evaluation.score:.4g} ({meaning})")
    if not numbers:
        return lines
    near = sum(sigmas_above_floor(name, number) <= 2 for name, number in numbers)
    lines.append(f"{near} of {len(numbers)} numbers are within 2 sigmas of their floor; farthest away:")
    for name, number in numbers[:5]:
        lines.append(
            f"  {name:<36}{number.value:>11.4g} +- {number.error:<9.2g} floor {number.floor:<10.4g}"
            f"{number.sigmas:>+7.1f} sigmas"
        )
    return lines
