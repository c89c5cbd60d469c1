"""JSON text for the catalog that DuckDB can read, also for metrics that are NaN or infinite."""

import json
import math
from typing import Any


def json_text(value: Any) -> str:
    """One line of JSON, keys in order. JSON knows no NaN and no infinity: both become null."""
    return json.dumps(finite(value), sort_keys=True, default=str, allow_nan=False)


def finite(value: Any) -> Any:
    """The same value with None instead of every NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
