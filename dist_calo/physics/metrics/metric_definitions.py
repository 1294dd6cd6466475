"""Definitions of the metrics: name, meaning and direction of each kind of number.

A number's name is ``kind/subject``, such as ``separation/depth``, or ``kind/subject/index`` for one layer or channel.
"""

from dataclasses import dataclass

SCORE_DEFINITION = 2
"""Number of the score's definition; scores of different definitions are not compared."""


@dataclass(frozen=True, kw_only=True)
class MetricDefinition:
    """Definition of one kind of metric.

    Attributes:
        title: heading in a table.
        meaning: in a sentence, with the formula.
        signed: whether it may lie on either side of its floor; otherwise it is a distance, and less is better.
    """

    title: str
    meaning: str
    signed: bool = False


METRICS: dict[str, MetricDefinition] = {
    "score": MetricDefinition(
        title="score",
        meaning="mean of W₁/σ of the observables and of the differences of correlations between layers or channels",
    ),
    "separation": MetricDefinition(
        title="separation",
        meaning="separation power of the two histograms, 1/2 Σ (h - g)² / (h + g) at unit area: 0 equal, 1 disjoint",
    ),
    "chi2_ndf": MetricDefinition(
        title="χ²/ndf", meaning="χ² of the two histograms over its degrees of freedom: 1 for equal ones"
    ),
    "wasserstein": MetricDefinition(title="W₁", meaning="Wasserstein-1 distance in the observable's unit"),
    "wasserstein_scaled": MetricDefinition(
        title="W₁/σ", meaning="Wasserstein-1 distance divided by the standard deviation of the reference"
    ),
    "shift": MetricDefinition(
        title="shift/σ",
        meaning="generated minus reference mean, in standard deviations of the reference",
        signed=True,
    ),
    "shifts": MetricDefinition(
        title="|shift|/σ", meaning="mean over layers or channels of the size of that shift"
    ),
    "width": MetricDefinition(
        title="width - 1",
        meaning="generated over reference standard deviation, minus 1",
        signed=True,
    ),
    "widths": MetricDefinition(
        title="|width - 1|", meaning="mean over layers or channels of the size of that number"
    ),
    "relative_error": MetricDefinition(
        title="relative error",
        meaning="|generated - reference mean| / |reference mean|, averaged over layers or channels",
    ),
    "missing": MetricDefinition(
        title="missing",
        meaning="difference of the shares of showers that have the observable at all, averaged over layers or channels",
    ),
    "profile_error": MetricDefinition(
        title="relative error",
        meaning="mean over the bins of a profile of |generated - reference| / reference, as 3DGAN's papers define it",
    ),
    "profile_chi2": MetricDefinition(
        title="χ²/bin",
        meaning="mean over the bins of a profile of ((generated - reference) / statistical error)²",
    ),
    "response": MetricDefinition(
        title="response", meaning="relative difference of the mean response or of the resolution", signed=True
    ),
    "resolution_fit": MetricDefinition(
        title="resolution fit",
        meaning="difference of a term of σ/E = a/√E ⊕ c, and ⊕ b/E where the read-out has noise",
        signed=True,
    ),
    "correlation": MetricDefinition(
        title="correlation",
        meaning="mean size of the difference of the correlation matrices, diagonal included",
    ),
    "image": MetricDefinition(
        title="mean shower",
        meaning="largest difference of the mean energy of a cell in statistical errors, or χ²/cell",
    ),
    "fpd": MetricDefinition(
        title="FPD",
        meaning="Fréchet distance of all observables in units of their standard deviations, extrapolated to infinitely "
        "many showers",
        signed=True,
    ),
    "kpd": MetricDefinition(
        title="KPD",
        meaning="squared maximum mean discrepancy of all observables with a kernel of degree 4, median of batches",
        signed=True,
    ),
    "precision": MetricDefinition(
        title="precision",
        meaning="share of generated showers within the neighbourhood of a reference shower",
        signed=True,
    ),
    "recall": MetricDefinition(
        title="recall",
        meaning="share of reference showers within the neighbourhood of a generated shower",
        signed=True,
    ),
    "density": MetricDefinition(
        title="density",
        meaning="mean number of reference neighbourhoods that a generated shower lies in, divided by k",
        signed=True,
    ),
    "coverage": MetricDefinition(
        title="coverage",
        meaning="share of reference showers with a generated one in their neighbourhood",
        signed=True,
    ),
    "auc": MetricDefinition(
        title="AUC", meaning="area under the curve of a classifier: .5 cannot tell, 1 always can"
    ),
    "jsd": MetricDefinition(
        title="JSD",
        meaning="Jensen-Shannon divergence by that classifier: 0 equal, 1 disjoint",
    ),
}


def definition_of(name: str) -> MetricDefinition:
    """Return the definition of a metric by its name."""
    return METRICS[name.split("/")[0]]
