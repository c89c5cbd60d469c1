"""What a campaign publishes: a table in Markdown, and one line."""

from collections import Counter

from tests.crash.campaign import Findings

_SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")


def table(findings: Findings) -> str:
    """Kills by operation, signal and place."""
    rows = ["| operation | SIGKILL | SIGTERM | SIGINT | at a failpoint | at any instant | kills |"]
    rows.append("|---|--:|--:|--:|--:|--:|--:|")
    kills = Counter((case.operation, case.signal) for case in findings.cases)
    instants = Counter(case.operation for case in findings.cases if case.place == "any instant")
    total = Counter(case.operation for case in findings.cases)
    for name in total:
        counts = [kills[name, signal] for signal in _SIGNALS]
        rows.append(_row(name, *counts, total[name] - instants[name], instants[name], total[name]))
    sums = [sum(kills[name, signal] for name in total) for signal in _SIGNALS]
    rows.append(_row("all", *sums, total.total() - instants.total(), instants.total(), total.total()))
    places = Counter(case.place for case in findings.cases if case.place != "any instant")
    named = ", ".join(f"`{name}` {places[name]}" for name in sorted(places))
    return "\n".join([*rows, "", f"By failpoint: {named}."])


def line(findings: Findings) -> str:
    """The numbers of the whole campaign."""
    n_kills = len(findings.cases)
    each = findings.seconds / max(1, n_kills)
    return (
        f"seed {findings.seed}: {n_kills:,} kills that met work under way, {findings.misses.total():,} misses, "
        f"{findings.lakes} lakes, {findings.rebuilds} rebuilds, {findings.seconds:.0f} s ({each:.2f} s a kill), "
        f"problems {len(findings.problems)}"
    )


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
