"""Is the lake what was committed? Finds damage and places it; changes nothing."""
