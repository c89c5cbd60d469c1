"""Plain values from YAML text that may hold anything: bounded in size and depth, and no section has a key twice."""

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**18
_MAX_DEPTH = 64
# With every alias counted as what it stands for.
_MAX_NODES = 100_000
# What PyYAML raises, beside its own errors, for a value that its type can't hold, such as the date 2024-02-30.
_BAD_VALUE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


class NotYamlError(Exception):
    """The text is not YAML, or nothing that settings can hold; the message says where and why."""


def read_yaml(path: Path) -> Any:
    """The value in a file. Raises OSError and NotYamlError."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise NotYamlError(f"more than {MAX_BYTES} bytes, which no settings need")
    try:
        return parse_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise NotYamlError(f"not UTF-8: {error.reason} at byte {error.start}") from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises NotYamlError."""
    try:
        _check_depth(text)
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count_nodes(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise NotYamlError(f"not valid YAML: {_problem(error)}") from None
    except _BAD_VALUE as error:
        raise NotYamlError(f"not valid YAML: a value that its type can't hold ({error})") from None


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong, and where; without the line itself, which may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error)
    mark = error.problem_mark or error.context_mark
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return " ".join(part for part in (error.context, error.problem) if part) + place


def _check_depth(text: str) -> None:
    """The parser keeps its own stack, while PyYAML makes objects by recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise NotYamlError(f"nested more than {_MAX_DEPTH} levels deep{_place(event)}")


def _count_nodes(node: yaml.Node, counted: dict[int, int]) -> int:
    """Nodes below a node, aliases counted each time. `counted` has the count of each, 0 while it is being counted."""
    if id(node) in counted:
        if counted[id(node)] == 0:
            raise NotYamlError(f"a value that contains itself{_place(node)}")
        return counted[id(node)]
    counted[id(node)] = 0
    n_nodes = 1
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        n_nodes += sum(_count_nodes(key, counted) + _count_nodes(value, counted) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        n_nodes += sum(_count_nodes(item, counted) for item in node.value)
    if n_nodes > _MAX_NODES:
        raise NotYamlError(f"more than {_MAX_NODES} values, aliases counted each time")
    counted[id(node)] = n_nodes
    return n_nodes


def _check_keys(node: yaml.MappingNode) -> None:
    line_of = dict[tuple[str, str], int]()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if (key.tag, key.value) in line_of:
                first = line_of[key.tag, key.value]
                raise NotYamlError(f"the key {key.value!r} stands twice in one section, in lines {first} and {line}")
            line_of[key.tag, key.value] = line


def _place(thing: Any) -> str:
    mark = thing.start_mark
    return f", in line {mark.line + 1}" if mark is not None else ""
