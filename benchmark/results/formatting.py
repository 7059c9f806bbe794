"""Numbers as people read them: 72.3 ± 0.4, 22.0 M, 3.10."""

from benchmark.results.gain import Gain
from benchmark.results.statistic import Statistic

MISSING = "-"
_UNITS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))


def one_line(name: str) -> str:
    """What somebody has named, as it can stand in a cell of a table."""
    return " ".join(name.split()).replace("|", r"\|")


def percent(value: Statistic | None) -> str:
    """A fraction as percent with one decimal: "72.3" or "72.3 ± 0.4"."""
    return MISSING if value is None else _join(value, 0.01, 1)


def difference(gain: Gain | None) -> str:
    """Points of mAP with their 95 % interval: "+1.2 [+0.8, +1.6]"; "≈ " before it where that holds zero."""
    if gain is None:
        return MISSING
    low, high = 100 * gain.interval.low, 100 * gain.interval.high
    return f"{'' if gain.interval.excludes_zero else '≈ '}{100 * gain.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def quantity(value: Statistic | None) -> str:
    """A count with three significant digits and a decimal prefix: "22.0 M" or "22.0 ± 0.3 M"."""
    if value is None:
        return MISSING
    rounded = float(f"{value.mean:.2e}")  # rounded first, so that 999,999 becomes "1.00 M" and not "1000 k"
    unit, suffix = next((pair for pair in _UNITS if rounded >= pair[0]), (1.0, ""))
    return _join(value, unit, _decimals(rounded / unit) if suffix else 0) + suffix


def milliseconds(value: Statistic | None) -> str:
    """A time with three significant digits: "3.10" or "3.10 ± 0.05"."""
    return MISSING if value is None else _join(value, 1.0, _decimals(value.mean))


def _decimals(value: float) -> int:
    """How many decimals show three significant digits; at most 3."""
    exponent = int(f"{value:.2e}".partition("e")[2])
    return min(3, max(0, 2 - exponent))


def _join(value: Statistic, unit: float, decimals: int) -> str:
    mean = f"{value.mean / unit:.{decimals}f}"
    # Costs of a static network are the same in every run: nothing varies, so nothing is said about it.
    return f"{mean} ± {value.std / unit:.{decimals}f}" if value.std else mean
