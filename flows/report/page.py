"""The page as one file: its sections in order, rendered, and written in one step."""

import base64
import errno
import hashlib
import json
import os
import re
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from logitlake.flows.report.blocks import Chart, Section
from logitlake.flows.report.findings import Findings, find_out
from logitlake.flows.report.sections.cost import cost_section
from logitlake.flows.report.sections.distributions import distributions_section
from logitlake.flows.report.sections.fidelity import fidelity_section
from logitlake.flows.report.sections.holdings import holdings_section
from logitlake.flows.report.sections.passages import passages_section
from logitlake.flows.report.sections.size import size_section
from logitlake.flows.report.sections.students import students_section
from logitlake.flows.runtime.address_space import PLOTTING_BYTES, require_address_space
from logitlake.flows.terminal.output import readable
from logitlake.storage.lake.lake import Lake
from logitlake.storage.staging import errors_name

SECTIONS = (
    holdings_section,
    size_section,
    distributions_section,
    fidelity_section,
    students_section,
    cost_section,
    passages_section,
)


def write_report(lake: Lake, output: Path) -> None:
    """Write the page of a lake. An existing page is replaced in one step, or not at all."""
    require_address_space(PLOTTING_BYTES, "the plotting library")
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory; expected a file name", str(output))
    text = render(find_out(lake))
    descriptor, staged = tempfile.mkstemp(dir=output.parent, prefix=".report.", suffix=".tmp")
    try:
        with errors_name(output), os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(staged).chmod(0o644)
        Path(staged).replace(output)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise


def render(findings: Findings) -> str:
    """The page as HTML. Every text from the lake is escaped."""
    sections = [section for make in SECTIONS if (section := make(findings)) is not None]
    scripts = [_plotting(), _own("report.js")]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            findings=findings,
            sections=sections,
            specs={
                block.key: block.spec for section in sections for block in section.blocks if isinstance(block, Chart)
            },
            style=Markup(_own("report.css")),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("logitlake.flows.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "readable": _readable,
        "for_script": _for_script,
        "is_number": _is_number,
        "with_code": _with_code,
    }
    return environment


def _policy(scripts: list[str]) -> str:
    """Content security policy: the page fetches nothing and runs only these scripts."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    rules = ("default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'", "img-src data:")
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


@cache
def _plotting() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, from the installed wheel: nothing is fetched."""
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub is out of date
    return bundle.replace("</script", "<\\/script")


@cache
def _own(name: str) -> str:
    return files("logitlake.flows.report").joinpath("templates", name).read_text(encoding="utf-8")


def _for_script(value: Any) -> Markup:
    """JSON that can stand inside of <script>: no text in it ends the element or starts a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _with_code(text: str) -> Markup:
    """Escaped text, with what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _readable(value: Any) -> str:
    return "–" if value is None else readable(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


__all__ = ["SECTIONS", "Section", "render", "write_report"]
