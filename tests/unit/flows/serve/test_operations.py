"""What docs/operations.md says about the service: the lines that it shows work as they are."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_copy_line_of_prefect_yaml_works_in_a_checkout(tmp_path: Path) -> None:
    (line,) = re.findall(r"^ *(cp .*prefect.*)$", OPERATIONS, re.MULTILINE)
    line = line.replace("$(python ", f"$({sys.executable} ")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "prefect.yaml").read_bytes() == (ROOT / "prefect.yaml").read_bytes()


def test_systemd_stops_the_command_first_and_starts_it_again_after_a_kill() -> None:
    (unit,) = re.findall(r"```ini\n(   # /etc/systemd/system/logitlake\.service.*?)```", OPERATIONS, re.DOTALL)
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string("\n".join(line.strip() for line in unit.splitlines()))
    service = parser["Service"]
    assert (service["KillMode"], service["Restart"]) == ("mixed", "on-failure")


def test_the_upgrade_of_prefects_database_names_the_one_of_serve() -> None:
    (line,) = re.findall(r"`([^`]*prefect server database upgrade[^`]*)`", OPERATIONS)
    assert line.startswith("PREFECT_HOME=lake/prefect ")
    assert line.endswith(" -y"), "no question is asked"
