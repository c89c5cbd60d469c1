"""The closing tables of the demo: quality, speed, cost beside online distillation, and three questions in SQL."""

from typing import Any

from logitlake.flows.reports import CaptureReport, DistillReport
from logitlake.flows.terminal.output import Format, print_rows
from logitlake.storage.answers.history import stored_bytes_per_token, teacher_speed
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import query
from logitlake.storage.writing.recipes import find_recipe

QUESTIONS = {
    "Before which tokens is the teacher least certain?": """
SELECT token, count(*) AS times, avg(entropy) AS entropy_nats, avg(exp(logprob)) AS probability_given
FROM positions GROUP BY token HAVING count(*) >= 50 ORDER BY entropy_nats DESC LIMIT 6""",
    "Which files surprise the teacher most?": """
SELECT source, sum(n_targets)::BIGINT AS targets, -sum(mean_logprob * n_targets) / sum(n_targets) AS nats_per_token
FROM sequences GROUP BY source ORDER BY nats_per_token DESC LIMIT 6""",
    "Where was the teacher certain and wrong?": """
SELECT d.sources[1] AS source, p.position, h.token AS predicted, h.probability, p.token AS observed
FROM positions AS p
JOIN heads AS h USING (recipe_id, doc_id, position)
JOIN documents AS d USING (recipe_id, doc_id)
WHERE h.rank = 1 AND h.token_id <> p.token_id ORDER BY h.probability DESC LIMIT 6""",
}
_MEASURES = {
    "cross_entropy": "cross-entropy, nats",
    "kl": "KL to the teacher, nats",
    "top1_agreement": "top-1 agreement with the teacher",
    "calibration_error": "calibration error",
}


def print_demo_report(location: LakeLocation, captured: CaptureReport, trained: DistillReport) -> None:
    """All tables on standard output."""
    with Lake.open(location) as lake:
        _, recipe = find_recipe(lake, captured.recipe_id)
        speed = teacher_speed(lake, recipe["teacher"]["weights"])
        size = stored_bytes_per_token(lake, captured.recipe_id)
    assert speed is not None and size is not None, "the demo has captured"
    teacher_rate, student_rate = speed[0], trained.metrics["train"]["tokens_per_second"]
    print_rows(quality(trained.metrics), Format.TABLE, title="On held-out documents, never trained on")
    rates = [
        {"quantity": "bytes per cached token", "value": size[0]},
        {"quantity": "cached tokens", "value": size[1]},
        {"quantity": "teacher, tokens/s", "value": teacher_rate},
        {"quantity": "student from the cache, tokens/s", "value": student_rate},
    ]
    print_rows(rates, Format.TABLE, title="Size and speed")
    title = "Cost beside online distillation, with the teacher in the loop (seconds)"
    print_rows(costs(trained.n_tokens, size[1], teacher_rate, student_rate), Format.TABLE, title=title)
    for question, sql in QUESTIONS.items():
        print(f"{question}\n{sql.rstrip()}\n")
        print_rows(query(location, sql), Format.TABLE)


def quality(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per measure: the student before and after, and the teacher."""
    return [
        {
            "measure": text,
            "student_before": metrics["before"][name],
            "student_after": metrics["after"][name],
            "teacher": metrics["teacher"][name],
        }
        for name, text in _MEASURES.items()
    ]


def costs(n_trained: int, n_cached: int, teacher_rate: float, student_rate: float) -> list[dict[str, Any]]:
    """Seconds for 1, 2 and 10 students of one epoch each. Online, the teacher reads every token for every student.

    The cache is computed once, held-out documents included.
    """
    train, once, online = n_trained / student_rate, n_cached / teacher_rate, n_trained / teacher_rate
    return [
        {
            "students": n,
            "cached": once + n * train,
            "online": n * (train + online),
            "online_costs_times": n * (train + online) / (once + n * train),
            "teacher_seconds_saved": n * online - once,
        }
        for n in (1, 2, 10)
    ]
