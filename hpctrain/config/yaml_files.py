"""Checks of hand-written YAML before Hydra reads it; errors name the file and the line. Reads files.

Hydra and PyYAML word some of these errors in their own way, and accept others silently: numbers in base 60
(12:00:00 is 43200), and aliases that unfold to millions of values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from hpctrain.errors import Damaged, UserError
from hpctrain.storage.json_files import read_small

_MOST_VALUES = 10_000  # per file, with its aliases unfolded
_MOST_DEPTH = 50
_CLOCK = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


def check(key: str, path: Path, followed: Callable[[str], bool] = lambda text: True) -> None:
    """Raises UserError, for the setting `key`, unless the file is a table of settings in plain YAML.

    `followed` returns whether a text with a reference `${...}` to another setting has the right form.
    """
    try:
        text = read_small(path.resolve())[0].decode()
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        _count(key, path, root, {}, 0)
        _check_header(key, path, text)
        for node in _texts(root):
            if "${" in node.value and not followed(node.value):
                raise _at(key, path, node, "its ${...} cannot be followed; a $ in a text is written \\$")
    except Damaged as error:
        raise UserError(key, path, f"cannot be read: {error.why}") from None
    except UnicodeDecodeError:
        raise UserError(key, path, "is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise explain(key, path, error) from None
    except RecursionError:
        raise UserError(key, path, "is nested too deeply") from None
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise _at(key, path, root, "must be a table of settings, as in name: value")


def explain(key: str, path: Any, error: yaml.YAMLError) -> UserError:
    """Returns an error of PyYAML as one line that names the file and the line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "context", None) or error)
    if "'\\t'" in problem or re.search(r"\btabs?\b", problem):
        problem = "a tab: indent with spaces"
    elif "did not find expected ',' or" in problem or "expected the node content" in problem:
        problem = "a bracket is not closed, or a comma is missing"
    elif "mapping values are not allowed" in problem:
        problem = "a second colon in one line, or wrong indentation: quote the value"
    place = f"line {mark.line + 1}: " if mark else ""
    return UserError(key, path, f"{place}{' '.join(problem.split())}")


def _check_header(key: str, path: Path, text: str) -> None:
    """Raises UserError for a first comment that begins with @ and is not Hydra's `# @package NAME`."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip().lstrip("#").split()
        if not re.match(r"\s*(#\s*@|$)", line):
            return
        if words and len(words) != 2:
            raise UserError(key, path, f"line {number}: must be # @package NAME, or begin without @")


def _texts(node: Any) -> Iterator[yaml.ScalarNode]:
    """Yields every scalar value below `node`, which must not contain itself."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from _texts(pair[1])
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _texts(each)


def _at(key: str, path: Path, node: yaml.Node, what: str) -> UserError:
    return UserError(key, path, f"line {node.start_mark.line + 1}: {what}")


def _count(key: str, path: Path, node: Any, known: dict[int, int], depth: int) -> int:
    """Returns the number of values below `node`, aliases unfolded. Raises UserError for what YAML accepts silently."""
    if node is None:
        return 0
    if id(node) in known:
        return known[id(node)]
    if depth > _MOST_DEPTH:
        raise _at(key, path, node, "is nested too deeply, or holds itself")
    if node.tag not in yaml.SafeLoader.yaml_constructors:
        raise _at(key, path, node, f"a tag such as {node.tag} is not allowed")
    total = 1
    if isinstance(node, yaml.MappingNode):
        names = set()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode) or name.tag.endswith(":null"):
                raise _at(key, path, name, "the name of a setting must be a word")
            if name.value in names:
                raise _at(key, path, name, f"{name.value} is given twice")
            names.add(name.value)
            total += _count(key, path, value, known, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(key, path, value, known, depth + 1) for value in node.value)
    elif not node.style and node.tag.endswith(":int") and _CLOCK.fullmatch(node.value):
        raise _at(
            key, path, node, f"{node.value} is a number in base 60 to YAML: write '{node.value}' in quotes"
        )
    if total > _MOST_VALUES:
        raise _at(key, path, node, f"has more than {_MOST_VALUES:,} values, with its aliases unfolded")
    known[id(node)] = total
    return total
