"""Numbers with units as text."""

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def bytes_text(n_bytes: float) -> str:
    """Such as `12.3 MB`: powers of 1,000, three digits."""
    value, unit = float(n_bytes), 0
    while abs(value) >= 999.5 and unit < len(_BYTE_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:,.0f} B" if unit == 0 else f"{value:,.{_decimals(value)}f} {_BYTE_UNITS[unit]}"


def duration_text(seconds: float) -> str:
    """Such as `1.7 s`, `12 min 5 s`, `3 h 20 min`, `4 days 6 h`: the two largest units."""
    if seconds < 59.95:
        return f"{seconds:.{0 if seconds >= 10 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days:,} days {hours} h" if hours else f"{days:,} days"


def change_text(expected: float, measured: float) -> str:
    """The difference from the expected value, such as `+12 %`."""
    if not expected:
        return "-"
    change = 100 * (measured / expected - 1)
    return f"{change:+.0f} %" if abs(change) >= 0.5 else "as expected"


def named_text(name: str, value: object) -> str | None:
    """The text of a value whose name tells its unit (`n_bytes`, `bytes_on_disk`, `seconds`, `teacher_hours`), else
    None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    words = name.split("_")
    if "per" in words:
        return None
    if "bytes" in words:
        return bytes_text(value)
    if words[-1] == "seconds":
        return duration_text(value)
    return duration_text(3600 * value) if words[-1] == "hours" else None


def _decimals(value: float) -> int:
    return 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
