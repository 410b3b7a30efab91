"""Config reference: every key of a config with its value, its meaning and its source.

Meanings and sources are the comments of the config files, above or beside the lines that
set a key; `configs/common.py` describes their form. These lines are recorded while the
config is made, so a source belongs to the actual value, whichever preset set it.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import os
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ml_collections import ConfigDict

_NAME = r"(?:paper|released code|authors?|MAE|DINO|SimCLR|[Oo]urs)\b(?!')"
# In brackets, or a separate sentence or clause.
SOURCE = re.compile(
    rf"\((?P<bracket>{_NAME}[^()]*)\)"
    rf"|(?:^|(?<=[.;:] ))(?P<clause>{_NAME}(?:[^.;]|\.(?=\d))*)[.;]?"
)

INDENT = "    "

# Lines (file, number) of config files that set a value, from the innermost call outwards.
Lines = Sequence[tuple[str, int]]
# All lines that set a key, in order: {id of the section: {key: lines}}.
History = dict[int, dict[str, list[Lines]]]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A key of a config, explained.

    Attributes:
      key: full key, such as "optim.blr".
      value: value in the config.
      meaning: meaning of the key; empty if no comment states it.
      reason: remark on this value; may be empty.
      source: source of the value; empty if no comment states it.
      place: file and line that the value comes from.
    """

    key: str
    value: object
    meaning: str
    reason: str
    source: str
    place: str


@contextlib.contextmanager
def _recorded() -> Iterator[History]:
    """Context that records every line that sets a value of a ConfigDict."""
    history: History = {}
    sections: list[ConfigDict] = []
    set_item = ConfigDict.__setitem__

    def record(self: ConfigDict, key: str, value: Any) -> None:
        sections.append(self)  # kept alive, so that ids are not reused
        frame = sys._getframe(1)
        lines = _copied_from(history, frame, key) or [_lines(frame)]
        history.setdefault(id(self), {}).setdefault(key, []).extend(lines)
        set_item(self, key, value)

    ConfigDict.__setitem__ = record
    try:
        yield history
    finally:
        ConfigDict.__setitem__ = set_item


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None and frame.f_code is not explain.__code__:
        yield frame
        frame = frame.f_back


def _copied_from(history: History, frame: FrameType, key: str) -> list[Lines] | None:
    """Lines that set the original value, if a section is being copied."""
    for caller in itertools.takewhile(_is_library, _frames(frame)):
        if caller.f_code is ConfigDict.copy_and_resolve_references.__code__:
            return history[id(caller.f_locals["self"])].get(key)
    return None


def _is_library(frame: FrameType) -> bool:
    name = frame.f_globals["__name__"]
    return name == __name__ or name.startswith("ml_collections.")


def _lines(frame: FrameType) -> Lines:
    return [
        (caller.f_code.co_filename, caller.f_lineno)
        for caller in _frames(frame)
        if not _is_library(caller)
    ]


@functools.cache
def _notes(path: str) -> dict[int, tuple[str, str]]:
    """Returns {line: (comment, docstring of its function)} of a file's statements."""
    text = Path(path).read_text("utf-8")
    beside: dict[int, str] = {}
    above: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            is_alone = not token.line[: token.start[1]].strip()
            (above if is_alone else beside)[token.start[0]] = token.string.lstrip("# ")
    notes: dict[int, tuple[str, str]] = {}
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        docstring = " ".join((ast.get_docstring(function) or "").split())
        for node in ast.walk(function):
            if isinstance(node, ast.stmt) and not hasattr(node, "body"):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                first = node.lineno
                while first - 1 in above:
                    first -= 1
                words = [above[line] for line in range(first, node.lineno)]
                words += [beside[line] for line in lines if line in beside]
                notes |= dict.fromkeys(lines, (" ".join(words), docstring))
    return notes


def _note(line: tuple[str, int]) -> tuple[str, str]:
    path, number = line
    return _notes(path).get(number, ("", ""))


def _without_source(comment: str) -> str:
    text = " ".join(SOURCE.sub("", comment).split())
    text = re.sub(r"\s+([.,;:])", r"\1", text).strip(" .,;:")
    return _capitalized(f"{text}." if text else "")


def _source(lines: Lines) -> tuple[str, tuple[str, int]]:
    """Returns (source, line) of the innermost line with a source, or "" and the first line.

    The source is in the line's comment or its function's docstring.
    """
    for line in lines:
        comment, docstring = _note(line)
        if found := [m["bracket"] or m["clause"] for m in SOURCE.finditer(comment)]:
            return _capitalized("; ".join(text.strip() for text in found)), line
        if match := SOURCE.search(docstring):
            name = re.match(_NAME, match["bracket"] or match["clause"])
            assert name, "`SOURCE` begins with it"
            return _capitalized(name.group()), line
    return "", lines[0]


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[ConfigDict, str, str]]:
    """Yields (section, name, full key) of every value, including empty sections."""
    for name, value in config.items():
        if isinstance(value, ConfigDict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield config, name, f"{prefix}{name}"


def _value(section: ConfigDict, name: str) -> Any:
    value = section[name]
    return value.to_dict() if isinstance(value, ConfigDict) else value


def explain(path: str, arg: str | None = None) -> Iterator[Explanation]:
    """Explains every key of the config that a file's `get_config` makes."""
    spec = importlib.util.spec_from_file_location("explained_config", path)
    assert spec and spec.loader, f"{path} is no Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with _recorded() as history:
        config = module.get_config(*(() if arg is None else (arg,)))
    for section, name, key in _leaves(config):
        setters = history[id(section)][name]
        remarks = [_without_source(_note(lines[0])[0]) for lines in setters]
        meanings = [remark for remark in remarks if remark]
        meaning = meanings[0] if meanings else ""
        source, (file, line) = _source(setters[-1])
        yield Explanation(
            key=key,
            value=_value(section, name),
            meaning=meaning,
            reason=remarks[-1] if remarks[-1] != meaning else "",
            source=source,
            place=f"{os.path.relpath(file)}:{line}",
        )


def describe(config: ConfigDict, file: str) -> str:
    """Formats every key of a config with its value, meaning and source.

    Args:
      config: config of the file, possibly with overridden values.
      file: FILE or FILE:ARG, as given to --config.
    """
    path, colon, arg = file.partition(":")
    entries = {entry.key: entry for entry in explain(path, arg if colon else None)}
    blocks = []
    for section, name, key in _leaves(config):
        value = _value(section, name)
        texts = _texts(value, entries.get(key))
        lines = [f"{key} = {value!r}"]
        for text in filter(None, texts):
            lines += textwrap.wrap(
                text, 88, initial_indent=INDENT, subsequent_indent=INDENT
            )
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def _texts(value: Any, preset: Explanation | None) -> list[str]:
    """Returns meaning, reason and source of a value that may differ from the preset's."""
    if preset is None:
        return ["Source: the command line"]
    if value != preset.value:
        source = f"the command line; the preset has {preset.value!r}"
        return [preset.meaning, f"Source: {source}"]
    reason = preset.reason and f"Here: {preset.reason}"
    source = f"{preset.source or 'no source is named'} ({preset.place})"
    return [preset.meaning, reason, f"Source: {source}"]
