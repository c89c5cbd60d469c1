"""Which positions the report looks at one by one: all of a small lake, the same few million of a large one.

Whole work units are taken, in the order of the SHA-256 of their ids, each recipe up to its share: so the same lake
gives the same page, and of a large lake only a few shards are opened.
"""

from dataclasses import dataclass

from logitlake.storage.lake.lake import Lake

POSITIONS = 2_000_000
_POSITIONS_OF_A_RECIPE = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How much of the lake the temporary tables hold: positions and work units, taken and in all."""

    n_positions: int
    n_all_positions: int
    n_units: int
    n_all_units: int

    @property
    def whole(self) -> bool:
        return self.n_units == self.n_all_units


def take_sample(lake: Lake, *, positions: int = POSITIONS) -> Sample:
    """Make the temporary tables `sampled_sequences` and `sampled`, a row per sequence and per position with a target.

    About `positions` in all, shared equally among the recipes; one work unit of each recipe at least.
    `sampled.sequence` is the key of `sampled_sequences`; `label` is the index of the position's entry in the row's
    lists, from 1.
    """
    lake.connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE sampled_units AS
        SELECT recipe_id, unit_id
        FROM (
            SELECT
                *, sum(n_targets) OVER (PARTITION BY recipe_id ORDER BY sha256(unit_id), unit_id) - n_targets AS before
            FROM (
                SELECT recipe_id, unit_id, max(n_targets) AS n_targets
                FROM store.commits SEMI JOIN store.documents USING (recipe_id, unit_id)
                GROUP BY recipe_id, unit_id
            )
        )
        WHERE before < greatest($least, $positions / (SELECT greatest(count(DISTINCT recipe_id), 1) FROM store.commits))
        """,
        {"positions": positions, "least": min(positions, _POSITIONS_OF_A_RECIPE)},
    )
    lake.connection.execute(_SEQUENCES)
    lake.connection.execute(_POSITIONS)
    return Sample(
        **lake.row(
            """
            SELECT
                (SELECT count(*) FROM sampled) AS n_positions,
                (SELECT coalesce(sum(n_targets), 0)::BIGINT FROM store.sequences) AS n_all_positions,
                (SELECT count(*) FROM sampled_units) AS n_units,
                (SELECT count(DISTINCT (recipe_id, unit_id)) FROM store.documents) AS n_all_units
            """
        )
    )


_SEQUENCES = """
CREATE OR REPLACE TEMP TABLE sampled_sequences AS
SELECT
    hash(recipe_id, unit_id, doc_id, window_index) AS sequence, recipe_id, unit_id, doc_id, window_index, start, corpus,
    source, n_tokens
FROM store.sequences SEMI JOIN sampled_units USING (recipe_id, unit_id)
"""

# The noise of a draw needs the sum of squares of its codes; USMALLINT would overflow.
_POSITIONS = """
CREATE OR REPLACE TEMP TABLE sampled AS
SELECT
    sequence, label, levels, entropy_codes[label] / 32 AS entropy,
    nats(nll_codes[label], nll_steps_per_nat) AS surprise,
    input_ids[label + 1] AS token_id, target_ids[label][1] AS first_id,
    head_codes[label][1] / levels AS first_probability,
    len(head_codes[label]) AS n_heads, len(target_ids[label]) - len(head_codes[label]) AS n_tails,
    1 - coalesce(list_sum(head_codes[label]), 0) / levels AS residual_mass,
    coalesce(list_sum(list_transform(head_codes[label], lambda code: code::BIGINT * code)), 0) / levels ** 2
        AS squared_mass
FROM (
    SELECT
        hash(recipe_id, unit_id, doc_id, window_index) AS sequence, levels, input_ids, target_ids, head_codes,
        entropy_codes, nll_codes, nll_steps_per_nat, unnest(range(1, n_tokens)) AS label
    FROM store.sequences SEMI JOIN sampled_units USING (recipe_id, unit_id)
)
WHERE nll_codes[label] IS NOT NULL
"""
