"""Students in the lake: registry, losses, candidates, promotions."""
