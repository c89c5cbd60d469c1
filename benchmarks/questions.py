"""Every question of docs/sql.md, unchanged, in DuckDB's own command line, on the demo's lake: `make questions`.

They run on a copy of that lake; a missing lake is made first. The demo's student captures 50 documents as a second
teacher, so that questions about two teachers have answers. The last line of the output is JSON; the exit code is 1 if a
question fails or has no rows.
"""

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

from benchmarks.demo_lake import copy_demo_lake, demo_parser, demo_paths
from benchmarks.surroundings import REPOSITORY
from logitlake.flows.capture.run import CaptureRun
from logitlake.flows.demo.settings import demo_config
from logitlake.flows.demo.teacher import demo_teacher
from logitlake.flows.terminal.output import Format, print_rows, say
from logitlake.pipeline.settings.models import Config
from logitlake.storage.answers.listings import listing
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.client_setup import client_lines

PAGE = REPOSITORY / "docs" / "sql.md"
COMMAND_LINE = Path(sysconfig.get_paths()["scripts"]) / "duckdb"
_DOCUMENTS = 50
_QUESTION = re.compile(r"^\*\*(.+?)\*\*.*?```sql\n(.*?)```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one question: its number of rows, or the error."""

    question: str
    n_rows: int
    seconds: float
    error: str = ""


def main() -> int:
    """Prepare the lake, ask, and print a table. Returns 1 if a question failed or has no rows."""
    paths = demo_paths(demo_parser(__doc__.splitlines()[0]).parse_args().demo)
    with tempfile.TemporaryDirectory(prefix="logitlake-questions-") as folder:
        home = Path(folder)
        location = copy_demo_lake(paths, home)
        Lake.open(location, read_only=False).close()
        config = demo_config(paths, demo_teacher())
        config = config.model_copy(update={"lake": config.lake.model_copy(update={"path": home / "lake"})})
        cache_by_student(config, home / "chosen")
        answers = [ask(location, title, sql) for title, sql in questions(PAGE.read_text(encoding="utf-8"))]
    print_rows([asdict(answer) for answer in answers], Format.TABLE)
    failed = [answer.question for answer in answers if answer.error or not answer.n_rows]
    seconds = round(sum(answer.seconds for answer in answers), 1)
    print(json.dumps({"questions": len(answers), "failed": failed, "seconds": seconds}))
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
    """Capture the 50 shortest documents with the newest student as the teacher; evaluate it if it was not evaluated."""
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
        say("Evaluating the student on the held-out documents.")
        arguments = ["evaluate", student["student_id"], "--no-teacher", "--lake", str(config.lake.path)]
        subprocess.run([sys.executable, "-m", "logitlake", *arguments], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
