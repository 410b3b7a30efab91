"""Config reference: every key of a config with its value, its meaning and its source.

Meanings and sources are the comments of the config files, above or beside the lines that
set a key; `configs/common.py` says how they are written. Which lines those are is recorded
while the config is made. So a source is that of the very value, whichever preset set it.
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from ml_collections import ConfigDict

_NAME = r"(?:paper|released code|authors?|MAE|DINO|[Oo]urs)\b(?!')"
# In brackets, or a sentence or clause of its own.
SOURCE = re.compile(
    rf"\((?P<bracket>{_NAME}[^()]*)\)"
    rf"|(?:^|(?<=[.;:] ))(?P<clause>{_NAME}(?:[^.;]|\.(?=\d))*)[.;]?"
)

INDENT = "    "

# Where a value was set: lines of config files, from the innermost call outwards.
Lines = Sequence[tuple[str, int]]
# All that set a key, in order, by the identity of its section.
History = Mapping[int, Mapping[str, list[Lines]]]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A key of a config, explained.

    Attributes:
      key: with its sections, such as "optim.blr".
      value: as the config has it.
      meaning: what the key stands for; empty where no comment says so.
      reason: a remark on this value, if there is one.
      source: where the value comes from; empty where no comment says so.
      place: file and line that set the value or, if it was passed on, that gave it.
    """

    key: str
    value: object
    meaning: str
    reason: str
    source: str
    place: str


@contextlib.contextmanager
def _recorded() -> Iterator[History]:
    """Inside, every line that sets a value of a ConfigDict is recorded."""
    history, sections = {}, []
    set_item = ConfigDict.__setitem__

    def record(self: ConfigDict, key: str, value) -> None:
        sections.append(self)  # kept: an identity may be given again to another section
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
    """The lines of the value's original, if a section is being copied."""
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
    """(comment, docstring of its function) of each line of a file's simple statements."""
    text = Path(path).read_text()
    beside, above = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            is_alone = not token.line[: token.start[1]].strip()
            (above if is_alone else beside)[token.start[0]] = token.string.lstrip("# ")
    notes = {}
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        docstring = " ".join((ast.get_docstring(function) or "").split())
        for node in ast.walk(function):
            if isinstance(node, ast.stmt) and not hasattr(node, "body"):
                lines = range(node.lineno, node.end_lineno + 1)
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
    """(source, line) of the innermost line with a source, its own or its function's."""
    for line in lines:
        comment, docstring = _note(line)
        if found := [m["bracket"] or m["clause"] for m in SOURCE.finditer(comment)]:
            return _capitalized("; ".join(text.strip() for text in found)), line
        if match := SOURCE.search(docstring):
            name = re.match(_NAME, match["bracket"] or match["clause"])
            return _capitalized(name.group()), line
    return "", lines[0]


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[ConfigDict, str, str]]:
    """(section, name, whole key) of every value, empty sections among them."""
    for name, value in config.items():
        if isinstance(value, ConfigDict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield config, name, f"{prefix}{name}"


def _value(section: ConfigDict, name: str):
    value = section[name]
    return value.to_dict() if isinstance(value, ConfigDict) else value


def explain(path: str, arg: str | None = None) -> Iterator[Explanation]:
    """Every key of the config that a file's `get_config` makes."""
    spec = importlib.util.spec_from_file_location("explained_config", path)
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
    """Every key of a config with its value, meaning and source, as text.

    Args:
      config: as the file makes it, or with some of its values overridden.
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


def _texts(value, preset: Explanation | None) -> list[str]:
    """Meaning, reason and source of a value that may differ from the preset's."""
    if preset is None:
        return ["Source: the command line"]
    if value != preset.value:
        source = f"the command line; the preset has {preset.value!r}"
        return [preset.meaning, f"Source: {source}"]
    reason = preset.reason and f"Here: {preset.reason}"
    source = f"{preset.source or 'no source is named'} ({preset.place})"
    return [preset.meaning, reason, f"Source: {source}"]
