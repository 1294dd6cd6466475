"""Functions that models use and ONNX has no operator for, written with those that it has.

For ln(1 + x) and exp(x) - 1 torch's exporter would write just that, of which little is right for small x; ONNX
Runtime's logistic function is right to 1e-7 of 1, not of itself. Each function here gives what torch's own gives, to
float32 rounding. The models keep calling torch: these take over in the exported graph alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Wichura, Applied Statistics 37 (1988) 477, algorithm AS 241: numerators and denominators of the normal quantile
# function by powers of its argument, near the median, in the tails, and far out in them.
# fmt: off
_MIDDLE = (
    (3.3871328727963666, 133.14166789178438, 1971.5909503065514, 13731.693765509461,
     45921.95393154987, 67265.77092700870, 33430.575583588128, 2509.0809287301227),
    (1.0, 42.313330701600911, 687.18700749205791, 5394.1960214247511,
     21213.794301586596, 39307.895800092711, 28729.085735721943, 5226.4952788528546),
)
_TAIL = (
    (1.4234371107496836, 4.6303378461565453, 5.7694972214606914, 3.6478483247632046,
     1.2704582524523684, 0.24178072517745061, 0.022723844989269185, 7.7454501427834141e-4),
    (1.0, 2.0531916266377588, 1.6763848301838038, 0.68976733498510000,
     0.14810397642748007, 0.015198666563616457, 5.4759380849953449e-4, 1.0507500716444169e-9),
)
_FAR = (
    (6.6579046435011038, 5.4637849111641144, 1.7848265399172913, 0.29656057182850489,
     0.026532189526576123, 0.0012426609473880784, 2.7115555687434876e-5, 2.0103343992922881e-7),
    (1.0, 0.59983220655588794, 0.13692988092273581, 0.014875361290850615,
     7.8686913114561326e-4, 1.8463183175100547e-5, 1.4215117583164459e-7, 2.0442631033899398e-15),
)
# fmt: on
_NEAR, _FAR_FROM = 0.425, 5.0
# Press et al., Numerical Recipes, 6.2: the complementary error function as t exp(-x^2 + polynomial in t).
_ERFC = (-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587)
_ERFC_LAST = (-0.82215223, 0.17087277)


def _ratio(x: Tensor, powers: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    above, below = (_polynomial(x, part) for part in powers)
    return above / below


def _polynomial(x: Tensor, powers: Sequence[float]) -> Tensor:
    value = torch.full_like(x, powers[-1])
    for power in reversed(powers[:-1]):
        value = value * x + power
    return value


def _quantile(offset: Tensor, tail: Tensor) -> Tensor:
    """Return the normal quantile of a probability given as its offset from 1/2 and its distance from 0 or 1."""
    middle = offset * _ratio((_NEAR**2 - offset.square()).clamp(min=0.0), _MIDDLE)
    root = (-tail.clamp(min=1e-38).log()).sqrt()
    near = _ratio((root - 1.6).clamp(min=0.0), _TAIL)
    far = _ratio((root - _FAR_FROM).clamp(min=0.0), _FAR)
    out = torch.where(root > _FAR_FROM, far, near) * torch.sign(offset)
    return torch.where(offset.abs() <= _NEAR, middle, out)


def normal_quantile(probability: Tensor) -> Tensor:
    """Compute `torch.special.ndtri` between 0 and 1."""
    return _quantile(probability - 0.5, torch.minimum(probability, 1.0 - probability))


def inverse_error_function(values: Tensor) -> Tensor:
    """Compute `torch.erfinv` between -1 and 1."""
    return _quantile(0.5 * values, 0.5 * (1.0 - values.abs())) / math.sqrt(2.0)


def normal_probability(values: Tensor) -> Tensor:
    """Compute `torch.special.ndtr`, right in relative terms down to the smallest probabilities."""
    x = values / math.sqrt(2.0)
    t = 1.0 / (1.0 + 0.5 * x.abs())
    small = 0.5 * t * (_polynomial(t, _ERFC + _ERFC_LAST) - x.square()).exp()
    return torch.where(x.abs() < 0.5, 0.5 + 0.5 * torch.erf(x), torch.where(x < 0, small, 1.0 - small))


def complementary_error_function(values: Tensor) -> Tensor:
    """Compute `torch.special.erfc`, right in relative terms where it is small."""
    return 2.0 * normal_probability(-math.sqrt(2.0) * values)


def places(
    levels: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Compute `torch.searchsorted` in rising levels, (N,)."""
    if levels.dim() != 1 or sorter is not None:
        raise NotImplementedError("searchsorted in more than one row of levels")
    before = levels <= values[..., None] if right or side == "right" else levels < values[..., None]
    return before.to(torch.int32 if out_int32 else torch.int64).sum(-1)


def log_of_one_more(values: Tensor) -> Tensor:
    """Compute `torch.log1p` above -1, right in relative terms near 0."""
    # Kahan's way: the rounding of 1 + x is the same in the logarithm and in its correction.
    one_more = 1.0 + values
    rest = one_more - 1.0
    nothing = rest == 0
    return torch.where(nothing, values, one_more.log() * values / torch.where(nothing, 1.0, rest))


def exponential_less_one(values: Tensor) -> Tensor:
    """Compute `torch.expm1`, right in relative terms near 0."""
    half = torch.tanh(0.5 * values.clamp(-1.0, 1.0))
    return torch.where(values.abs() < 1.0, 2.0 * half / (1.0 - half), values.exp() - 1.0)


def logistic(values: Tensor) -> Tensor:
    """Compute `torch.sigmoid`, right in relative terms where it is small."""
    return 1.0 / (1.0 + (-values).exp())


def replacements() -> dict[Any, Callable[..., Any]]:
    """Return the function that stands for each operator in an exported graph."""
    return {
        torch.ops.aten.special_ndtri.default: normal_quantile,
        torch.ops.aten.special_ndtr.default: normal_probability,
        torch.ops.aten.special_erfc.default: complementary_error_function,
        torch.ops.aten.erfc.default: complementary_error_function,
        torch.ops.aten.erfinv.default: inverse_error_function,
        torch.ops.aten.searchsorted.Tensor: places,
        torch.ops.aten.sigmoid.default: logistic,
        torch.ops.aten.log1p.default: log_of_one_more,
        torch.ops.aten.expm1.default: exponential_less_one,
    }
