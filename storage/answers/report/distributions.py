"""How unsure the teacher is and how surprised: histograms and quantiles over the sampled positions.

Every function here needs the temporary tables of `logitlake.storage.answers.report.sample`.
"""

import pyarrow as pa

from logitlake.storage.lake.lake import Lake

BIN_NATS = 0.5
LAST_BIN_NATS = 12.0


def histograms(lake: Lake) -> pa.Table:
    """Positions by recipe, corpus, measure (`entropy`, `surprise`) and bin of half a nat; the last has all above."""
    return lake.sql(
        """
        SELECT recipe_id, corpus, measure, least(floor(nats / $bin), $last / $bin) * $bin AS bin, count(*) AS n
        FROM (
            SELECT sequence, unnest(['entropy', 'surprise']) AS measure, unnest([entropy, surprise]) AS nats
            FROM sampled
        ) JOIN sampled_sequences USING (sequence)
        WHERE nats IS NOT NULL
        GROUP BY ALL ORDER BY ALL
        """,
        {"bin": BIN_NATS, "last": LAST_BIN_NATS},
    )


def quantiles(lake: Lake) -> pa.Table:
    """Mean and quantiles in nats of both measures, by recipe and corpus."""
    return lake.sql(
        """
        SELECT
            recipe_id, corpus, measure, count(*) AS n, avg(nats) AS mean, quantile_cont(nats, 0.1) AS p10,
            quantile_cont(nats, 0.5) AS median, quantile_cont(nats, 0.9) AS p90, quantile_cont(nats, 0.99) AS p99
        FROM (
            SELECT sequence, unnest(['entropy', 'surprise']) AS measure, unnest([entropy, surprise]) AS nats
            FROM sampled
        ) JOIN sampled_sequences USING (sequence)
        WHERE nats IS NOT NULL
        GROUP BY ALL ORDER BY ALL
        """
    )
