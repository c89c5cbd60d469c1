"""How near the cached targets are to the teacher, and how right the teacher is, told from the cache alone.

Every function here needs the temporary tables of `logitlake.storage.answers.report.sample`.
"""

import pyarrow as pa

from logitlake.storage.lake.lake import Lake

CALIBRATION_BINS = 10


def entries(lake: Lake) -> pa.Table:
    """A row per recipe: entries and mass kept, levels, and `noise`, which E‖p̂-p‖² does not exceed on average.

    The recipe's facts name the formula. systematic: each of n tails is worth r/n, so sampling adds at most r²/n;
    rounding a head or the residual mass to a multiple of 1/levels adds at most 1/4 of a level squared. multinomial: N
    draws have the noise (1 - Σp²)/N, of which (1 - Σp̂²)/(N - 1) is an unbiased estimate. Where none is named there is
    no such figure: a truncation has a bias instead.
    """
    return lake.sql(
        """
        SELECT
            recipe_id, any_value(unbiased) AS unbiased, any_value(teacher_gives) AS teacher_gives,
            any_value(served_as) AS served_as, count(*) AS n, any_value(levels) AS levels,
            avg(n_heads) AS heads, avg(n_tails) AS tails, avg(n_heads + n_tails) AS entries,
            quantile_cont(n_heads + n_tails, 0.99) AS entries_p99, avg(residual_mass) AS residual_mass,
            avg((n_heads = 0)::INTEGER) AS without_head,
            CASE any_value(facts ->> 'noise')
                WHEN 'systematic' THEN
                    avg(coalesce(residual_mass ** 2 / nullif(n_tails, 0), 0) + (n_heads + 1) / (4 * levels ** 2))
                WHEN 'multinomial' THEN avg((1 - squared_mass) / nullif(levels - 1, 0))
            END AS noise
        FROM sampled JOIN sampled_sequences USING (sequence) JOIN recipes USING (recipe_id)
        JOIN store.target_facts USING (recipe_id)
        GROUP BY recipe_id ORDER BY recipe_id
        """
    )


def entry_counts(lake: Lake) -> pa.Table:
    """Positions by recipe, corpus and number of entries kept; the last row of each has all with 40 and more."""
    return lake.sql(
        """
        SELECT recipe_id, corpus, least(n_heads + n_tails, 40) AS entries, count(*) AS n
        FROM sampled JOIN sampled_sequences USING (sequence) GROUP BY ALL ORDER BY ALL
        """
    )


def calibration(lake: Lake) -> pa.Table:
    """By recipe, corpus and decile of its likeliest token's probability: how sure the teacher was, how often it was
    right.

    Only where the cache tells: the likeliest token is a head, at temperature 1. Draws do not say which id is likeliest.
    """
    return lake.sql(
        """
        SELECT
            recipe_id, corpus, least(floor(first_probability * $bins), $bins - 1)::INTEGER AS bin, count(*) AS n,
            sum(first_probability) AS confident, sum((first_id = token_id)::INTEGER)::BIGINT AS n_right
        FROM sampled JOIN sampled_sequences USING (sequence) JOIN recipes USING (recipe_id)
        WHERE n_heads > 0 AND heads = 'probabilities' AND temperature = 1
        GROUP BY ALL ORDER BY ALL
        """,
        {"bins": CALIBRATION_BINS},
    )
