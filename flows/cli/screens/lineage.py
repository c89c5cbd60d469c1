"""`logitlake show lineage`: a student and its ancestors, each with its row set, as a tree."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from logitlake.flows.terminal.output import Format, console, print_rows
from logitlake.storage.answers.listings import ancestry
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.promotions import decisions
from logitlake.storage.students.registry import named_student


def show_lineage(lake: Lake, name: str, form: Format) -> None:
    """A student by its id, the beginning of it, or an alias."""
    lineage = ancestry(lake, named_student(lake, name)["student_id"])
    if form is Format.TABLE:
        print_tree(lineage_tree(lineage.to_pylist(), decisions(lake)))
    else:
        print_rows(lineage, form)


def lineage_tree(ancestry: Sequence[Mapping[str, Any]], decisions: Mapping[str, str]) -> Tree:
    """A student (the first row) and its ancestors, each with its row set; `decisions` are texts by student id."""
    root = tree = _student(ancestry[0], decisions)
    for row, parent in zip(ancestry, [*ancestry[1:], None], strict=True):
        tree.add(_row_set(row))
        if parent is None:
            tree.add(Text(f"model {row['parent_id']}, not a student of this lake"))
        else:
            tree = tree.add(_student(parent, decisions))
    return root


def print_tree(tree: Tree) -> None:
    """Print on standard output; to a pipe without colours and line breaks."""
    console().print(tree)


def _student(row: Mapping[str, Any], decisions: Mapping[str, str]) -> Tree:
    decided = decisions.get(row["ancestor_id"])
    return Tree(Text(f"student {row['ancestor_id']}{f', {decided}' if decided else ''}"))


def _row_set(row: Mapping[str, Any]) -> Tree:
    if row["recipe_ids"] is None:
        return Tree(Text(f"row set {row['row_set_id']}, not in this lake"))
    counts = f"{row['n_sequences']:,} sequences, {row['n_targets']:,} targets, commits up to {row['up_to_commit']}"
    tree = Tree(Text(f"row set {row['row_set_id']}: {counts}"))
    for recipe_id in row["recipe_ids"]:
        tree.add(Text(f"recipe {recipe_id}"))
    for name in ("filter", "weight"):
        if row[name]:
            tree.add(Text(f"{name} {row[name]}"))
    return tree
