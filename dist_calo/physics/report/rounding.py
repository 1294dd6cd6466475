"""Rounding of numbers: the error to two digits, the value to as many decimals."""

import math
from dataclasses import dataclass

from dist_calo.physics.metrics.half_sample_bootstrap import Measured

MINUS = "−"
MOST_DECIMALS, MOST_DIGITS = 5, 6
"""Beyond, a power of ten is taken out."""
LEVELS = (2.0, 3.0, 5.0, 10.0)
"""Distances from the floor in sigmas at which the colour of a number changes."""
FAR = 100.0
"""Largest distance in sigmas that is written as a number."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Digits:
    """Power of ten, ``10**exponent``, and number of decimals with which a number is written."""

    decimals: int
    exponent: int = 0

    @classmethod
    def of(cls, value: float, error: float) -> "Digits":
        """Choose two digits of the error, or three of a value without one."""
        # An error at the level of rounding counts as none.
        known = math.isfinite(error) and error > 1e-9 * abs(value)
        size = error if known else abs(value)
        if not math.isfinite(size) or size == 0:
            return cls(0)
        # Rounded first: .0996 becomes .10, which needs one decimal less.
        last = int(f"{size:.{1 if known else 2}e}".split("e")[1]) - (1 if known else 2)
        largest = max(abs(value) if math.isfinite(value) else 0.0, size)
        leading = math.floor(math.log10(largest))
        if last < -MOST_DECIMALS and leading < -1:
            return cls(max(leading - last, 0), leading)
        if leading >= MOST_DIGITS:
            return cls(max(leading - last, 0), leading)
        return cls(max(-last, 0))

    def write(self, number: float) -> str:
        """Return the number without the power of ten; a dash where there is none."""
        if math.isnan(number):
            return "–"
        if math.isinf(number):
            return "∞" if number > 0 else f"{MINUS}∞"
        text = f"{number / 10.0**self.exponent:,.{self.decimals}f}"
        # Without the sign of a rounded zero.
        return text.lstrip("-") if not float(text.replace(",", "")) else text.replace("-", MINUS)

    @property
    def power(self) -> str:
        """The power of ten, such as ``·10⁻⁵``."""
        return f"·10{str(self.exponent).translate(_SUPERSCRIPTS)}" if self.exponent else ""


def with_error(value: float, error: float) -> str:
    """Return ``0.0123 ± 0.0015``, ``(1.23 ± 0.15)·10⁻⁵``, or the value alone without an error."""
    digits = Digits.of(value, error)
    if not math.isfinite(error) or not math.isfinite(value):
        return digits.write(value) + digits.power * math.isfinite(value)
    text = f"{digits.write(value)} ± {digits.write(error)}"
    return f"({text}){digits.power}" if digits.power else text


def floor_of(number: Measured) -> str:
    """Return the floor, rounded by its own spread: it may be far below the number."""
    digits = Digits.of(number.floor, number.spread)
    return digits.write(number.floor) + digits.power * math.isfinite(number.floor)


def sigmas_in_words(sigmas: float) -> str:
    """Return ``5.3 σ``, or nothing where it is unknown."""
    if math.isnan(sigmas):
        return ""
    return f"> {FAR:.0f} σ" if sigmas > FAR else f"{sigmas:.1f} σ"


def level_of(sigmas: float) -> int | None:
    """Return the colour level of a distance from the floor, 0 (at the floor) to ``len(LEVELS)``; None if unknown."""
    return None if math.isnan(sigmas) else sum(sigmas >= level for level in LEVELS)
