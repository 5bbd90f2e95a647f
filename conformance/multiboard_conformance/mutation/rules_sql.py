# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The rules for SQL: by its tokens, since what stands in a program's strings is seldom a whole.

A condition is not taken out, it is made always true: what is bound to it stays bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from multiboard_conformance.mutation import edits
from multiboard_conformance.mutation.edits import Edit

_TOKENS = re.compile(
    r"(?P<blank>\s+|--[^\n]*|/\*.*?\*/)|(?P<text>'(?:[^']|'')*')|(?P<number>\b\d+(?:\.\d+)?\b)"
    r"|(?P<word>[A-Za-z_][\w.$]*)|(?P<sign>=>|<>|<=|>=|!=|:=|\|\||::|[^\s\w])",
    re.DOTALL,
)
_SQL = re.compile(
    r"\b(SELECT .*|INSERT INTO|UPDATE \w+|DELETE FROM|WHERE|ORDER BY|AND \w|SET \w)", re.DOTALL
)
#: What ends a condition, or an item of a list, on its own level of parentheses.
_ENDS = {
    "AND", "OR", "ORDER", "GROUP", "LIMIT", "RETURNING", "THEN", "LOOP", "FOR", "UNION", "WHERE",
    "ON", "FROM", "HAVING", "WINDOW", "END", "ELSE", "WHEN",
}  # fmt: skip
_STATEMENTS = {"INSERT", "UPDATE", "DELETE", "PERFORM"}


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int

    @property
    def upper(self) -> str:
        return self.text.upper() if self.kind == "word" else self.text


def is_sql(text: str) -> bool:
    """Whether a string holds SQL, or a part of a statement; keywords are in capitals."""
    return _SQL.search(text) is not None


def edits_of(source: bytes) -> Iterator[Edit]:
    """Yield every change that a rule makes of a file of statements."""
    yield from edits_in(source.decode(), whole=True)


def edits_in(text: str, whole: bool = False) -> Iterator[Edit]:
    """Yield every change of a text; in a whole file whole statements may be dropped, too."""
    tokens = [
        _Token(str(match.lastgroup), match[0], match.start(), match.end())
        for match in _TOKENS.finditer(text)
        if match.lastgroup != "blank"
    ]
    scope = ""
    for at, token in enumerate(tokens):
        if token.upper in ("FUNCTION", "PROCEDURE") and at + 1 < len(tokens):
            scope = tokens[at + 1].text
        for rule, start, end, new in _at(text, tokens, at, whole):
            bytes_of = [len(text[:place].encode()) for place in (start, end)]
            yield Edit(rule, bytes_of[0], bytes_of[1], new, scope)


def _at(
    text: str, tokens: Sequence[_Token], at: int, whole: bool
) -> Iterator[tuple[str, int, int, str]]:
    token = tokens[at]
    before = tokens[at - 1].upper if at else ""
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if token.upper in ("WHERE", "AND", "OR") and after is not None:
        last = _item(tokens, at + 1, comma=False)
        if last is not None and before != "BETWEEN" and after.upper != "EXISTS":
            condition = text[after.start : last.end]
            value = "FALSE" if token.upper == "OR" else "TRUE"
            joint = "AND" if token.upper == "OR" else "OR"
            new = f"({condition} {joint} {value})"
            yield edits.DROP_CONDITION, after.start, last.end, new
    if token.text in ("<", "<=", ">", ">="):
        new = token.text[0] if len(token.text) == 2 else token.text + "="
        yield edits.SWAP_BOUND, token.start, token.end, new
    if token.upper == "IS" and after is not None:
        if after.upper == "NOT":
            yield edits.NEGATE, token.start, after.end, "IS"
        else:
            yield edits.NEGATE, token.start, token.end, "IS NOT"
    # IF NOT EXISTS of a table that is made is left alone.
    negated = ("(",) if before == "IF" else ("(", "IN", "EXISTS", "LIKE")
    if token.upper == "NOT" and after is not None and before != "IS" and after.upper in negated:
        yield edits.NEGATE, token.start, after.start, ""
    if token.text in "+-" and at and tokens[at - 1].kind in ("word", "number") and after:
        yield edits.SWAP_SIGN, token.start, token.end, "-" if token.text == "+" else "+"
    if token.kind == "number" and "." not in token.text:
        yield edits.CHANGE_CONSTANT, token.start, token.end, str(int(token.text) + 1)
    if token.upper in ("ASC", "DESC"):
        yield edits.SWAP_ORDER, token.start, token.end, "DESC" if token.upper == "ASC" else "ASC"
    if token.upper == "BY" and before == "ORDER":
        last = _item(tokens, at + 1, comma=True)
        if last is not None and last.upper not in ("ASC", "DESC"):
            yield edits.SWAP_ORDER, last.end, last.end, " DESC"
    if token.upper == "SET" or token.text == ",":
        yield from _assignment(text, tokens, at)
    if whole and token.upper in _STATEMENTS and (before in (";", "THEN", "LOOP", "BEGIN", "ELSE")):
        last = _until(tokens, at, ";")
        if last is not None:
            yield edits.DROP_STATEMENT, token.start, last.start, "NULL"


def _assignment(
    text: str, tokens: Sequence[_Token], at: int
) -> Iterator[tuple[str, int, int, str]]:
    """Let a column that is set keep its value."""
    if at + 2 >= len(tokens) or tokens[at + 1].kind != "word" or tokens[at + 2].text != "=":
        return
    last = _item(tokens, at + 3, comma=True)
    if last is None:
        return
    column, value = tokens[at + 1].text, tokens[at + 3]
    kept = f"CASE WHEN TRUE THEN {column} ELSE {text[value.start : last.end]} END"
    yield edits.FORGET_FIELD, value.start, last.end, kept


def _item(tokens: Sequence[_Token], at: int, *, comma: bool) -> _Token | None:
    """Return the last token of the condition, or the item, that begins here; None if it is cut."""
    depth, last = 0, None
    for token in tokens[at:]:
        if token.text in "([":
            depth += 1
        elif token.text in ")]":
            depth -= 1
            if depth < 0:
                break
        elif depth == 0 and (
            token.upper in _ENDS or token.text == ";" or (comma and token.text == ",")
        ):
            break
        last = token
    return last if depth <= 0 else None


def _until(tokens: Sequence[_Token], at: int, text: str) -> _Token | None:
    return next((token for token in tokens[at:] if token.text == text), None)
