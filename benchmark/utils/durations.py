"""Durations as schedulers write them."""

import re

_FORMS = {
    r"(?P<minutes>\d+)": "minutes",
    r"(?P<minutes>\d+):(?P<seconds>\d+)": "minutes:seconds",
    r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)": "hours:minutes:seconds",
    r"(?P<days>\d+)-(?P<hours>\d+)": "days-hours",
    r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+)": "days-hours:minutes",
    r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)": "days-hours:minutes:seconds",
}
"""The forms of SLURM's option `--time`."""
_SECONDS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}
_LONGEST = 10 * 366 * _SECONDS["days"]


def seconds(duration: int | str) -> int:
    """Return the seconds of a duration: minutes, or one of the forms of SLURM's option `--time`, such as `11:30:00`.

    Raises:
        ValueError: It has another form, is zero or is longer than ten years; the message is the reason.
    """
    text = str(duration).strip()
    for form in _FORMS:
        if len(text) < 40 and (match := re.fullmatch(form, text, re.ASCII)):
            total = sum(_SECONDS[unit] * int(number) for unit, number in match.groupdict().items())
            if not 0 < total <= _LONGEST:
                raise ValueError("must be longer than nothing and at most ten years")
            return total
    raise ValueError(f"must be a number of minutes, or text such as '11:30:00': {', '.join(_FORMS.values())}")
