"""Every question of docs/sql.md, unchanged, in DuckDB's own command line, on the demo's lake: `make questions`.

On a copy of that lake, which is made first if it is missing. A second teacher, the demo's student, caches 50 of its
documents before, so that their disagreement is real. Ends with one line of JSON; fails if a question fails, or has no
answer.
"""

import argparse
import csv
import io
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.cli.commands.demo import demo
from logitlake.flows.demo.settings import DemoPaths, demo_config
from logitlake.flows.demo.teacher import demo_teacher
from logitlake.flows.terminal.output import Format, print_rows, say
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.listings import listing
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.location import LakeLocation
from logitlake.storage.sql.client_setup import client_lines

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sql.md"
COMMAND_LINE = Path(sysconfig.get_paths()["scripts"]) / "duckdb"
_DOCUMENTS = 50
_QUESTION = re.compile(r"^\*\*(.+?)\*\*.*?```sql\n(.*?)```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question: rows, or what went wrong."""

    question: str
    n_rows: int
    seconds: float
    error: str = ""


def main() -> int:
    """Prepare the lake, ask, and print a table. 1 if a question failed or has no answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path(), help="directory that holds demo-lake and demo-out")
    given = parser.parse_args()
    paths = DemoPaths.under(given.demo)
    if not paths.lake.exists():
        say("The demo's lake is missing: it is made first.")
        demo(given.demo)
    with tempfile.TemporaryDirectory(prefix="logitlake-questions-") as folder:
        home = Path(folder)
        shutil.copytree(paths.lake, home / "lake", ignore=shutil.ignore_patterns("prefect", "*.lock"))
        location = LakeLocation.resolve(home / "lake")
        Lake.open(location, read_only=False).close()
        config = demo_config(paths, demo_teacher())
        config = config.model_copy(update={"lake": config.lake.model_copy(update={"path": home / "lake"})})
        cache_by_student(config, home / "chosen")
        answers = [ask(location, title, sql) for title, sql in questions(PAGE.read_text(encoding="utf-8"))]
    print_rows([asdict(answer) for answer in answers], Format.TABLE)
    failed = [answer.question for answer in answers if answer.error or not answer.n_rows]
    print(
        json.dumps(
            {
                "questions": len(answers),
                "failed": failed,
                "seconds": round(sum(answer.seconds for answer in answers), 1),
            }
        )
    )
    return 1 if failed else 0


def questions(page: str) -> list[tuple[str, str]]:
    """Title and SQL of each question of the page."""
    return [(title, sql) for title, sql in _QUESTION.findall(page)]


def ask(location: LakeLocation, title: str, sql: str) -> Answer:
    """One question to DuckDB's command line, as a separate program that knows the lake by `sql --init` alone."""
    begun = time.monotonic()
    lines = "\n".join([*client_lines(location), sql])
    command = [str(COMMAND_LINE), "-no-init", "-bail", "-csv"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    error = done.stderr.strip() if done.returncode or done.stderr.strip() else ""
    return Answer(title, len(rows), round(time.monotonic() - begun, 2), error)


def cache_by_student(config: Config, folder: Path) -> None:
    """Let the newest student be a teacher of the 50 shortest documents of the lake; and measure it, if nobody has."""
    location = LakeLocation.resolve(config.lake.path)
    with Lake.open(location) as lake:
        student = listing(lake, "students", limit=1).rows.to_pylist()[0]
        chosen = lake.sql(
            f"""
            SELECT any_value(source) AS source
            FROM (SELECT doc_id, sum(n_tokens) AS n FROM sequences GROUP BY doc_id) JOIN sources USING (doc_id)
            GROUP BY doc_id, n ORDER BY n, doc_id LIMIT {_DOCUMENTS}
            """
        )["source"].to_pylist()
        measured = lake.sql("SELECT 1 FROM student_losses LIMIT 1").num_rows
    for source in chosen:
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(config.corpora[0].path) / source, folder / source)
    corpus = config.corpora[0].model_copy(update={"path": str(folder), "glob": ("**/*.py",)})
    assert config.teacher is not None
    second = config.model_copy(
        update={
            "corpora": (corpus,),
            "teacher": config.teacher.model_copy(update={"model": student["directory"]}),
            "capture": config.capture.model_copy(update={"max_tokens": None}),
        }
    )
    say(f"The student {student['student_id'][:12]} caches {len(chosen)} documents.")
    with CaptureRun(second) as run:
        for number in run.units():
            run.commit(run.compute(number))
    if not measured:
        say("It is measured on the held-out documents.")
        program = [
            sys.executable,
            "-m",
            "logitlake",
            "evaluate",
            student["student_id"],
        ]
        place = ["--no-teacher", "--lake", str(config.lake.path)]
        subprocess.run([*program, *place], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
