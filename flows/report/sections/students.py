"""The students: training curves, metrics on held-out documents, lineage."""

from typing import Any

import altair as alt

from logitlake.flows.report import charts
from logitlake.flows.report.blocks import Chart, Row, Section, Table
from logitlake.flows.report.findings import Findings

_SHORT = 8
_MEASURES = {
    "kl": "KL to the teacher, nats",
    "cross_entropy": "cross-entropy, nats",
    "top1_agreement": "top-1 agreement",
    "calibration_error": "calibration error",
}
_ROW_PIXELS = 46


def students_section(findings: Findings) -> Section:
    """Training curves, a comparison on held-out documents, and the lineage as a tree."""
    if not findings.students:
        lead = "No student yet. `logitlake train` trains one from the cache, without the teacher."
        return Section(key="students", title="Students", lead=lead)
    lead = (
        "All students are measured on the same held-out documents, on which none of them was trained. KL is the "
        "divergence from the teacher's distributions: the teacher itself has 0."
    )
    hidden = findings.totals["n_students"] - len(findings.students)
    if hidden:
        lead += f" Only the {len(findings.students)} newest are shown; {hidden:,} older ones are not."
    blocks: list[Chart | Table] = []
    if any(_measured(student, "after") for student in findings.students):
        blocks.append(_comparison(findings))
    curves = [student for student in findings.students if len(student["metrics"].get("curve") or ()) > 1]
    if curves:
        blocks.append(_curves(curves))
    blocks.append(_training_table(findings))
    if findings.hardest:
        blocks.append(_hardest(findings))
    return Section(
        key="students",
        title="Students",
        lead=lead,
        blocks=blocks,
        template="lineage.html.j2",
        more={"trees": _trees(findings), "no_curves": not curves},
    )


def _measured(student: dict[str, Any], when: str) -> dict[str, Any]:
    return student["metrics"].get(when) or {}


def _name(student: dict[str, Any]) -> str:
    decision = f", {student['decision']}" if student["decision"] else ""
    return f"{student['student_id'][:_SHORT]}{decision}"


def _recipes(student: dict[str, Any]) -> tuple[str, ...]:
    return tuple(student["recipe_ids"] or ())


def _comparison(findings: Findings) -> Chart:
    """Before and after training on one line a student, by KL where it is known for all of them."""
    students = [student for student in findings.students if _measured(student, "after")]
    measure = "kl" if all(_measured(s, "after").get("kl") is not None for s in students) else "cross_entropy"
    lines = []
    for student in students:
        before, after = _measured(student, "before").get(measure), _measured(student, "after")[measure]
        error = _measured(student, "after").get("kl_stderr") if measure == "kl" else None
        lines.append(
            {"name": _name(student), "before": before, "after": after, "text": f"{after:.3f}"}
            | {
                "low": after - 2 * (error or 0),
                "high": after + 2 * (error or 0),
                "recipe": (*_recipes(student), None)[0],
            }
            | {"teacher": _measured(student, "teacher").get(measure)}
        )
    tooltip = [
        alt.Tooltip("name:N", title="student"),
        alt.Tooltip("before:Q", title="before training", format=".3f"),
        alt.Tooltip("after:Q", title="after training", format=".3f"),
    ]
    base = charts.chart(lines, charts.RECIPE).encode(y=alt.Y("name:N", sort=None, axis=None), tooltip=tooltip)
    x = alt.X(
        "after:Q",
        title=f"{_MEASURES[measure]} (lower is better)",
        scale=alt.Scale(zero=True),
        axis=alt.Axis(grid=True, tickCount=6),
    )
    shown = alt.layer(
        base.mark_rule(strokeWidth=2, color="var(--line-strong)").encode(x=alt.X("before:Q", title=""), x2="after:Q"),
        base.mark_point(size=70, filled=False, strokeWidth=2, color=charts.MUTED).encode(x=alt.X("before:Q", title="")),
        base.mark_rule(strokeWidth=5, color=charts.ACCENT, opacity=0.35).encode(
            x=alt.X("low:Q", title=""), x2="high:Q"
        ),
        base.mark_point(size=90, filled=True, opacity=1, color=charts.ACCENT).encode(x=x),
        base.mark_text(align="left", dx=-5, dy=14).encode(x=x, text="text:N"),
        base.mark_text(align="left", dy=-16, limit=charts.WHOLE_WIDTH).encode(x=alt.value(0), text="name:N"),
    )
    best = min(lines, key=lambda line: line["after"])
    return Chart(
        key="compared",
        title="Before and after training, on held-out documents",
        spec=charts.specification(shown, charts.RECIPE, height=_ROW_PIXELS * len(lines)),
        description=f"{_MEASURES[measure]} of {len(lines)} students. The best is {best['name']} with {best['text']}.",
        table=_measures_table(findings),
        note="Open circle: before training. Filled circle: after training, with two standard errors on each side.",
    )


def _curves(students: list[dict[str, Any]]) -> Chart:
    rows: list[dict[str, Any]] = [
        {"name": student["student_id"][:_SHORT], "recipe": (*_recipes(student), None)[0], "step": step, "loss": loss}
        for student in students
        for step, loss in student["metrics"]["curve"]
    ]
    shown = (
        charts.chart(rows, charts.RECIPE)
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=18, filled=True))
        .encode(
            x=alt.X("step:Q", title="training step"),
            y=alt.Y("loss:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
            color=charts.colour_by_name([student["student_id"][:_SHORT] for student in students]),
            tooltip=[
                alt.Tooltip("name:N", title="student"),
                alt.Tooltip("step:Q", title="up to step", format=","),
                alt.Tooltip("loss:Q", title="mean loss", format=".4f"),
            ],
        )
    )
    summary = "; ".join(
        f"{s['student_id'][:_SHORT]} from {s['metrics']['curve'][0][1]:.3f} to {s['metrics']['curve'][-1][1]:.3f}"
        for s in students
    )
    table = Table(
        caption="Loss over steps",
        columns=["student", "up to step", "mean loss, nats"],
        rows=[
            Row(cells=[row["name"], row["step"], row["loss"]], recipes=(row["recipe"],) if row["recipe"] else ())
            for row in rows
        ],
    )
    return Chart(
        key="curves",
        title="Training curves",
        spec=charts.specification(shown, charts.RECIPE, title="loss, nats per target"),
        description=f"Training loss over steps: {summary} nats.",
        table=table,
    )


def _measures_table(findings: Findings) -> Table:
    rows = []
    for student in findings.students:
        for when in ("before", "after"):
            if measured := _measured(student, when):
                cells = [f"{_name(student)}, {when} training", *(measured.get(name) for name in _MEASURES)]
                rows.append(Row(cells=cells, recipes=_recipes(student)))
    teacher = next((m for student in reversed(findings.students) if (m := _measured(student, "teacher"))), {})
    if teacher:
        rows.append(Row(cells=["the teacher", *(teacher.get(name) for name in _MEASURES)]))
    return Table(caption="On held-out documents", columns=["model", *_MEASURES.values()], rows=rows)


def _training_table(findings: Findings) -> Table:
    rows = []
    for student in findings.students:
        train = _measured(student, "train")
        cells = [
            _name(student),
            f"{student['created_at']:%Y-%m-%d %H:%M}",
            student["n_sequences"],
            *(train.get(name) for name in ("steps", "tokens", "tokens_per_second")),
            _measured(student, "after").get("cross_entropy"),
            _measured(student, "after").get("kl"),
        ]
        rows.append(Row(cells=cells, recipes=_recipes(student)))
    columns = ["student", "trained (UTC)", "sequences", "steps", "tokens seen", "tokens/s", "cross-entropy", "KL"]
    return Table(caption="All students", columns=columns, rows=rows)


def _hardest(findings: Findings) -> Table:
    rows = [
        Row(
            cells=[
                row["student_id"][:_SHORT],
                row["source"] or "–",
                *(row[name] for name in ("n_targets", "student_loss", "teacher_loss", "gap")),
            ],
            recipes=(row["recipe_id"],),
            corpus=row["corpus"],
        )
        for row in findings.hardest
    ]
    columns = ["student", "document", "targets", "student, nats", "teacher, nats", "gap, nats"]
    return Table(caption="Held-out documents with the largest gap to the teacher", columns=columns, rows=rows)


def _trees(findings: Findings) -> list[dict[str, Any]]:
    """Each student under its parent; the parents of the roots are not students."""
    student_ids = {student["student_id"] for student in findings.students}
    children: dict[str, list[dict[str, Any]]] = {}
    for student in findings.students:
        children.setdefault(student["parent_id"], []).append(student)

    def node(student: dict[str, Any], depth: int = 0) -> dict[str, Any]:
        settings = student["settings"].get("student") or {}
        layers = (
            f"{settings['layers']} layers of the teacher"
            if settings.get("source") == "teacher"
            else settings.get("model")
        )
        from_student = student["parent_id"] in student_ids
        # A parent that leads back to itself can't come from training; a damaged catalog must not hang the page.
        below = children.get(student["student_id"], []) if depth < len(student_ids) else []
        return {
            "name": _name(student),
            "parent": None if from_student else layers or f"model {student['parent_id'][:_SHORT]}",
            "recipes": [findings.names.get(recipe_id, recipe_id[:_SHORT]) for recipe_id in _recipes(student)],
            "recipe_ids": _recipes(student),
            "student": student,
            "children": [node(child, depth + 1) for child in below],
        }

    return [node(student) for student in findings.students if student["parent_id"] not in student_ids]
