"""Numbers as a physicist writes them: the error with two digits, the value with as many decimals."""

import math
from dataclasses import dataclass

from dist_calo.physics.metrics.half_sample_bootstrap import Measured

MINUS = "−"
MOST_DECIMALS, MOST_DIGITS = 5, 6
"""Beyond, a power of ten is taken out."""
LEVELS = (2.0, 3.0, 5.0, 10.0)
"""Distances from the floor in sigmas at which the colour of a number changes."""
FAR = 100.0
"""Sigmas that are no longer told apart."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Digits:
    """How a number is written: ``10**exponent`` is taken out, so many decimals are left."""

    decimals: int
    exponent: int = 0

    @classmethod
    def of(cls, value: float, error: float) -> "Digits":
        """Two digits of the error, or three of a value without one."""
        # What rounding leaves is no error.
        known = math.isfinite(error) and error > 1e-9 * abs(value)
        size = error if known else abs(value)
        if not math.isfinite(size) or size == 0:
            return cls(0)
        # As rounded: .0996 is .10 and has one decimal less than it seems.
        last = int(f"{size:.{1 if known else 2}e}".split("e")[1]) - (1 if known else 2)
        largest = max(abs(value) if math.isfinite(value) else 0.0, size)
        leading = math.floor(math.log10(largest))
        if last < -MOST_DECIMALS and leading < -1:
            return cls(max(leading - last, 0), leading)
        if leading >= MOST_DIGITS:
            return cls(max(leading - last, 0), leading)
        return cls(max(-last, 0))

    def write(self, number: float) -> str:
        """The number without the power of ten; a dash where there is none."""
        if math.isnan(number):
            return "–"
        if math.isinf(number):
            return "∞" if number > 0 else f"{MINUS}∞"
        text = f"{number / 10.0**self.exponent:,.{self.decimals}f}"
        # The sign of a rounded zero says nothing.
        return text.lstrip("-") if not float(text.replace(",", "")) else text.replace("-", MINUS)

    @property
    def power(self) -> str:
        """The power of ten, such as ``·10⁻⁵``."""
        return f"·10{str(self.exponent).translate(_SUPERSCRIPTS)}" if self.exponent else ""


def with_error(value: float, error: float) -> str:
    """``0.0123 ± 0.0015``, ``(1.23 ± 0.15)·10⁻⁵``, or a value alone where there is no error."""
    digits = Digits.of(value, error)
    if not math.isfinite(error) or not math.isfinite(value):
        return digits.write(value) + digits.power * math.isfinite(value)
    text = f"{digits.write(value)} ± {digits.write(error)}"
    return f"({text}){digits.power}" if digits.power else text


def floor_of(number: Measured) -> str:
    """The floor in the digits of its own spread: it may be far below the number."""
    digits = Digits.of(number.floor, number.spread)
    return digits.write(number.floor) + digits.power * math.isfinite(number.floor)


def sigmas_in_words(sigmas: float) -> str:
    """``5.3 σ``; nothing where nothing can be said."""
    if math.isnan(sigmas):
        return ""
    return f"> {FAR:.0f} σ" if sigmas > FAR else f"{sigmas:.1f} σ"


def level_of(sigmas: float) -> int | None:
    """Which colour a distance from the floor has, from 0 (at the floor) to ``len(LEVELS)``; None where unknown."""
    return None if math.isnan(sigmas) else sum(sigmas >= level for level in LEVELS)
