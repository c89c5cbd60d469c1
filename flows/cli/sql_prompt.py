"""The prompt of `logitlake sql`: history, completion of views, columns and SQL keywords; Ctrl-C stops a query."""

import os
from pathlib import Path
from typing import Any

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from logitlake.flows.cli.signals import listen_again
from logitlake.flows.terminal.output import Format, print_rows, say
from logitlake.storage.errors import QueryError
from logitlake.storage.sql.session import ReadSession

# Words of other clients mean the same here: people type what their fingers know.
_LEAVE = {"exit", "quit", "\\q", ".exit", ".quit"}
_ASK_FOR_HELP = {"help", "\\?", "\\h", ".help", "?"}
_LIST = {"\\d", "\\dt", "\\dv", ".tables", "show tables", "show views"}
_EXPLAIN = {"\\d", "\\d+", ".schema", "describe", "desc"}
_HELP = """End a query with ; and press Enter. Ctrl-C stops a query or clears the input; Tab completes.
\\d or .tables lists the views, \\d NAME explains one, help shows this, \\q or Ctrl-D quits."""
_WORDS = (
    *("SELECT", "FROM", "WHERE", "GROUP BY ALL", "ORDER BY", "HAVING", "LIMIT", "JOIN", "LEFT JOIN", "USING", "WITH"),
    *("DISTINCT", "DESC", "AS", "AND", "OR", "NOT", "IN", "LIKE", "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "END"),
    *("count", "sum", "avg", "min", "max", "median", "quantile_cont", "exp", "ln", "round", "DESCRIBE", "SUMMARIZE"),
)


def converse(session: ReadSession, form: Format, *, timeout: float | None = None, **terminal: Any) -> None:
    """Read and answer queries until the end of the input. `terminal` is passed to prompt_toolkit."""
    prompt: PromptSession[str] = PromptSession(
        "lake> ",
        multiline=True,
        completer=completer(session),
        complete_while_typing=False,
        history=_history(),
        key_bindings=_bindings(),
        lexer=PygmentsLexer(SqlLexer),
        prompt_continuation="  ...> ",
        **terminal,
    )
    say(_HELP)
    while True:
        try:
            text = prompt.prompt().strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        listen_again()
        command = _command(text)
        if command in _LEAVE:
            return
        if command in _ASK_FOR_HELP:
            say(_HELP)
        elif text:
            _answer(session, text, form, timeout)


def completer(session: ReadSession) -> WordCompleter:
    """Offers views, columns, macros, and words of SQL."""
    return WordCompleter([*session.names(), *_WORDS], ignore_case=True)


def _answer(session: ReadSession, text: str, form: Format, timeout: float | None) -> None:
    try:
        rows = session.ask(_spelled_out(text), timeout=timeout)
        if not rows.num_rows and _spelled_out(text) != text:
            say("there is no such view: \\d lists the views")
        else:
            print_rows(rows, form, as_in_sql=True)
    except QueryError as error:
        say(str(error))
    except KeyboardInterrupt:
        say("stopped")


def _command(text: str) -> str:
    """The words of an input in small letters, without what ends a query."""
    return " ".join(text.strip().rstrip(";").lower().split())


def _spelled_out(text: str) -> str:
    """The query of a command of the prompt; any other text as it is."""
    command, _, name = _command(text).partition(" ")
    if _command(text) in _LIST:
        return "SELECT name, note FROM dictionary WHERE column_name IS NULL"
    if command in _EXPLAIN and name.replace("_", "").isalnum():
        return f"SELECT column_name, note FROM dictionary WHERE name = '{name}'"
    return text


def _is_complete(text: str) -> bool:
    """Whether Enter sends the text; otherwise it begins another line."""
    one_line = "\n" not in text and (text.startswith(("\\", ".")) or _command(text) in _LEAVE | _ASK_FOR_HELP | _LIST)
    return not text or text.endswith(";") or one_line


def _bindings() -> KeyBindings:
    """Enter sends a complete query, and adds a new line to an incomplete one."""
    bindings = KeyBindings()

    @bindings.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        text = event.current_buffer.text.strip()
        if _is_complete(text):
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return bindings


def _history() -> FileHistory | InMemoryHistory:
    path = Path(os.environ.get("LOGITLAKE_HISTORY") or user_state_path("logitlake") / "sql_history")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
