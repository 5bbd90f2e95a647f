# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The rules for Lua, by the syntax tree of tree-sitter, applied to the text.

They are meant for scripts that Redis runs. Indices (``ARGV[3]``) are left alone: a wrong one is
found at once. Imports tree-sitter only when there is Lua to be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from multiboard_conformance.mutation import edits
from multiboard_conformance.mutation.edits import Edit

_BOUNDS = {"math.min": "math.max", "math.max": "math.min"}
_EXITS = {"break_statement", "return_statement"}


def _parser() -> Any:
    try:
        import tree_sitter
        import tree_sitter_lua
    except ImportError as error:
        raise RuntimeError("for Lua, install multiboard[mutation]") from error
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_lua.language()))


def edits_of(source: bytes) -> Iterator[Edit]:
    """Yield every change that a rule makes of a script, as far as it can be parsed."""
    parser = _parser()
    found = _node(source, parser.parse(source).root_node, "")
    for edit in sorted(found, key=lambda edit: (edit.start, edit.end, edit.rule, edit.text)):
        if not parser.parse(edit.applied(source)).root_node.has_error:
            yield edit


def _span(node: Any) -> tuple[int, int]:
    return node.start_byte, node.end_byte


def _text(node: Any) -> str:
    return str(node.text.decode())


def _node(source: bytes, node: Any, scope: str) -> Iterator[Edit]:
    kind = node.type
    if kind == "function_declaration":
        scope = _text(node.child_by_field_name("name"))
    if kind in ("if_statement", "elseif_statement"):
        test = node.child_by_field_name("condition")
        yield Edit(edits.DROP_CONDITION, *_span(test), "false", scope)
        yield from _condition(test, scope)
    elif kind in ("while_statement", "repeat_statement"):
        yield from _condition(node.child_by_field_name("condition"), scope)
    elif kind == "binary_expression":
        yield from _binary(node, scope)
    elif kind == "number" and node.parent.type != "bracket_index_expression":
        text = _text(node)
        if text.isdigit():
            yield Edit(edits.CHANGE_CONSTANT, *_span(node), str(int(text) + 1), scope)
    elif kind in ("true", "false"):
        other = "false" if kind == "true" else "true"
        yield Edit(edits.CHANGE_CONSTANT, *_span(node), other, scope)
    elif kind == "dot_index_expression" and _text(node) in _BOUNDS:
        yield Edit(edits.SWAP_BOUND, *_span(node), _BOUNDS[_text(node)], scope)
    elif kind == "table_constructor":
        fields = [child for child in node.named_children if child.type == "field"]
        for number, one in enumerate(fields):
            if one.child_by_field_name("name") is not None:
                spans = [_span(each) for each in fields]
                edit = edits.without_one(edits.FORGET_FIELD, spans, number, scope)
                yield from () if edit is None else (edit,)
    elif kind == "function_call":
        yield from _pairs(node, scope)
    if kind in ("chunk", "block"):
        yield from _statements(source, node.named_children, scope)
    for child in node.children:
        yield from _node(source, child, scope)


def _condition(test: Any, scope: str) -> Iterator[Edit]:
    if test.type == "unary_expression" and _text(test).startswith("not"):
        yield Edit(edits.NEGATE, *_span(test), _text(test.child_by_field_name("operand")), scope)
    elif test.type != "binary_expression" or _operator(test) in ("and", "or"):
        yield Edit(edits.NEGATE, *_span(test), f"not ({_text(test)})", scope)


def _operator(node: Any) -> str:
    return _text(node.child_by_field_name("operator") or node.children[1])


def _binary(node: Any, scope: str) -> Iterator[Edit]:
    operator = node.child_by_field_name("operator") or node.children[1]
    word = _text(operator)
    if word in ("and", "or"):
        neutral = "true" if word == "and" else "false"
        for side in ("left", "right"):
            # The last operand of ``a and b`` as a value is no condition; then it is found at once.
            yield Edit(edits.DROP_CONDITION, *_span(node.child_by_field_name(side)), neutral, scope)
        other = "or" if word == "and" else "and"
        yield Edit(edits.SWAP_AND_OR, *_span(operator), other, scope)
    elif word in ("+", "-"):
        yield Edit(edits.SWAP_SIGN, *_span(operator), "-" if word == "+" else "+", scope)
    else:
        swapped = edits.swapped_bound(word)
        if swapped is not None:
            yield Edit(edits.SWAP_BOUND, *_span(operator), swapped.replace("!=", "~="), scope)


def _pairs(call: Any, scope: str) -> Iterator[Edit]:
    """Forget one pair of a command that takes several: the fields of a hash or of an event."""
    arguments = call.child_by_field_name("arguments")
    given = arguments.named_children
    words = [_text(one).strip("'\"") for one in given[:1]]
    if words not in (["HSET"], ["HMSET"], ["XADD"], ["ZADD"], ["HDEL"], ["DEL"], ["ZREM"]):
        return
    width = 2 if words[0] in ("HSET", "HMSET", "XADD", "ZADD") else 1
    begin = 2 if words != ["XADD"] else 2 + (len(given) - 2) % 2
    pairs = [
        (given[at].start_byte, given[at + width - 1].end_byte)
        for at in range(begin, len(given) - width + 1, width)
    ]
    for number in range(len(pairs)):
        edit = edits.without_one(edits.FORGET_FIELD, pairs, number, scope)
        yield from () if edit is None else (edit,)


def _is_effect(node: Any) -> bool:
    """Whether a statement writes: calls something, or sets what is not a local just begun."""
    return node.type in ("function_call", "assignment_statement")


def _statements(source: bytes, body: Sequence[Any], scope: str) -> Iterator[Edit]:
    statements = [node for node in body if node.type != "comment"]
    for number, node in enumerate(statements):
        # Without its last statement, which returns a value, a script replies nothing.
        bare = node.type in _EXITS and node.named_child_count == 0
        if _is_effect(node) or bare:
            yield Edit(edits.DROP_STATEMENT, *_span(node), "", scope)
        if number + 1 < len(statements):
            following = statements[number + 1]
            if _is_effect(node) and _is_effect(following):
                yield from edits.reordered(source, _span(node), _span(following), scope)
