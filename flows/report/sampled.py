"""How the page says what it looked at."""

from logitlake.storage.answers.report.sample import Sample


def about_the_sample(sample: Sample) -> str:
    """One sentence: all positions, or which of them."""
    if sample.whole:
        return f"Counted over all {sample.n_positions:,} positions."
    return (
        f"Counted over {sample.n_positions:,} of {sample.n_all_positions:,} positions: the {sample.n_units:,} of "
        f"{sample.n_all_units:,} work units whose ids have the smallest SHA-256, so always the same ones."
    )
