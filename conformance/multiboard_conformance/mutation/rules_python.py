# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The rules for Python: by the syntax tree, applied to the text, so that all else stays as it is.

Left alone are annotations, decorators, docstrings, log messages, what is only shown, and how a URL
is read: no promise of a backend is about them. Strings that hold SQL have rules of their own.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
from collections.abc import Iterator, Sequence

from multiboard_conformance.mutation import edits, rules_sql
from multiboard_conformance.mutation.edits import Edit

_LOGS = re.compile(r"^(log|logger|logging|warnings)$", re.IGNORECASE)
_DECLARATIONS = {"setting", "field", "TypeVar", "NewType", "cast", "namedtuple", "StashKey"}
_NOT_JUDGED = {"__repr__", "__str__", "server_info", "from_url"}
_SIGNS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}


def edits_of(source: bytes) -> Iterator[Edit]:
    """Yield every change that a rule makes of a module, as far as it compiles."""
    rules = _Rules(source)
    rules.visit(ast.parse(source))
    found = [*rules.found, *_of_sql(source, rules)]
    for edit in sorted(found, key=lambda edit: (edit.start, edit.end, edit.rule, edit.text)):
        if _compiles(edit.applied(source)):
            yield edit


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def _last_name(node: ast.AST) -> str:
    """Return the name that a call is written with: f in f(), and in a.b.f()."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_log(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return bool(_LOGS.match(_last_name(node.func.value)))


def _is_effect(node: ast.stmt) -> bool:
    """Whether a statement does something that is seen elsewhere, and binds no name."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, (ast.Call, ast.Await)) and not _is_log(node.value)
    if isinstance(node, ast.Assign):
        return all(isinstance(one, (ast.Attribute, ast.Subscript)) for one in node.targets)
    return isinstance(node, (ast.AugAssign, ast.Delete))


def _is_plain_exit(node: ast.stmt) -> bool:
    bare = isinstance(node, ast.Return) and node.value is None
    return bare or isinstance(node, (ast.Raise, ast.Continue, ast.Break))


class _Rules(ast.NodeVisitor):
    """Walks over a module and collects the edits."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.found: list[Edit] = []
        self.functions: list[tuple[int, int, str]] = []
        self.left_alone: list[tuple[int, int]] = []
        self._scope: list[str] = []
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        return self._lines[line - 1] + column

    def _span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = self.offset(node.lineno, node.col_offset)
        return begin, self.offset(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.expr | ast.stmt) -> str:
        begin, end = self._span(node)
        return self.source[begin:end].decode()

    def _add(self, rule: str, span: tuple[int, int], text: str) -> None:
        self.found.append(Edit(rule, *span, text, ".".join(self._scope)))

    # -- where to look -----------------------------------------------------------------------

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scope.append(node.name)
        begin, end = self._span(node)
        self.functions.append((begin, end, ".".join(self._scope)))
        if node.name in _NOT_JUDGED:
            self.left_alone.append((begin, end))
        else:
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self.visit(default)
            self._visit_body(node.body)
        self._scope.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function  # noqa: N815 - by ast's names

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope.append(node.name)
        self._visit_body(node.body)
        self._scope.pop()

    def visit_Module(self, node: ast.Module) -> None:
        self._visit_body(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant) or _is_log(node.value):
            self.left_alone.append(self._span(node))
        else:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Messages, mostly; and their parts have no sound offsets before Python 3.12."""

    def _visit_body(self, body: Sequence[ast.stmt]) -> None:
        for number, node in enumerate(body):
            if self._scope:
                self._of_statement(body, number)
            self.visit(node)

    def generic_visit(self, node: ast.AST) -> None:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self._visit_body(value)
            elif isinstance(value, list):
                for one in value:
                    if isinstance(one, ast.AST):
                        self.visit(one)
            elif isinstance(value, ast.AST):
                self.visit(value)

    # -- statements --------------------------------------------------------------------------

    def _of_statement(self, body: Sequence[ast.stmt], number: int) -> None:
        node = body[number]
        if _is_effect(node) or _is_plain_exit(node):
            self._add(edits.DROP_STATEMENT, self._span(node), "pass")
        if number + 1 < len(body) and _is_effect(node) and _is_effect(body[number + 1]):
            scope = ".".join(self._scope)
            spans = self._span(node), self._span(body[number + 1])
            self.found += edits.reordered(self.source, *spans, scope)

    def visit_If(self, node: ast.If) -> None:
        if _last_name(node.test) == "TYPE_CHECKING":
            return
        self._add(edits.DROP_CONDITION, self._span(node.test), "False")
        self._condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._condition(node.test)
            self.generic_visit(node)
        else:
            self._visit_body(node.body)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._add(edits.DROP_CONDITION, self._span(test), "True")
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self._add(edits.NEGATE, self._span(test), f"({self._text(test.operand)})")
        elif not isinstance(test, ast.Compare):  # those have their comparison swapped
            self._add(edits.NEGATE, self._span(test), f"(not ({self._text(test)}))")

    def visit_With(self, node: ast.With) -> None:
        if len(node.items) == 1 and node.items[0].optional_vars is None:
            begin, _ = self._span(node)
            _, end = self._span(node.items[0].context_expr)
            self._add(edits.DROP_WITH, (begin, end), "if True")
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if isinstance(node.type, ast.Tuple):
            names = [self._text(one) for one in node.type.elts]
            for name in names:
                rest = ", ".join(one for one in names if one != name)
                self._add(edits.DROP_HANDLER, self._span(node.type), f"({rest},)")
        self._visit_body(node.body)

    # -- expressions -------------------------------------------------------------------------

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        is_and = isinstance(node.op, ast.And)
        spans = [self._span(one) for one in node.values]
        for span in spans:
            self._add(edits.DROP_CONDITION, span, "True" if is_and else "False")
        was, becomes = (b"and", b"or") if is_and else (b"or", b"and")
        for (_, begin), (end, _) in itertools.pairwise(spans):
            gap = re.sub(rb"\b%b\b" % was, becomes, self.source[begin:end], count=1)
            self._add(edits.SWAP_AND_OR, (begin, end), gap.decode())
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            begin, end = self._span(left)[1], self._span(right)[0]
            gap = self.source[begin:end].decode()
            match = re.search(r"not\s+in|is\s+not|in|is|[<>=!]=|[<>]", gap)
            swapped = match and edits.swapped_bound(" ".join(match[0].split()))
            if match and swapped:
                text = gap[: match.start()] + swapped + gap[match.end() :]
                self._add(edits.SWAP_BOUND, (begin, end), text)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        sign = _SIGNS.get(type(node.op))
        texts = (ast.JoinedStr, ast.List, ast.Tuple)
        is_text = any(
            isinstance(side, texts)
            or (isinstance(side, ast.Constant) and isinstance(side.value, (str, bytes)))
            for side in (node.left, node.right)
        )
        if sign is not None and not is_text:
            begin, end = self._span(node.left)[1], self._span(node.right)[0]
            gap = self.source[begin:end].decode().replace(*sign, 1)
            self._add(edits.SWAP_SIGN, (begin, end), gap)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(edits.CHANGE_CONSTANT, self._span(node), str(not node.value))
        elif isinstance(node.value, (int, float)):
            self._add(edits.CHANGE_CONSTANT, self._span(node), repr(node.value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        name = _last_name(node.func)
        if name in _DECLARATIONS:
            self.left_alone.append(self._span(node))
            return
        if name in ("min", "max") and isinstance(node.func, ast.Name):
            other = "min" if name == "max" else "max"
            self._add(edits.SWAP_BOUND, self._span(node.func), other)
        if name[:1].isupper() or name == "replace":
            given: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
            spans = sorted(map(self._span, given))
            for keyword in node.keywords:
                if keyword.arg is not None:
                    self._forget(spans, self._span(keyword))
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        spans = [
            (self._span(value if key is None else key)[0], self._span(value)[1])
            for key, value in zip(node.keys, node.values, strict=True)
        ]
        for key, span in zip(node.keys, spans, strict=True):
            if isinstance(key, ast.Constant):
                self._forget(spans, span)
        self.generic_visit(node)

    def _forget(self, spans: Sequence[tuple[int, int]], span: tuple[int, int]) -> None:
        edit = edits.without_one(
            edits.FORGET_FIELD, spans, spans.index(span), ".".join(self._scope)
        )
        if edit is not None:
            self.found.append(edit)


# -- SQL in strings ------------------------------------------------------------------------------


def _of_sql(source: bytes, rules: _Rules) -> Iterator[Edit]:
    """Yield the changes of the strings that hold SQL; each literal is looked at by itself."""
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        quoted = re.fullmatch(r"(\"\"\"|'''|\"|')(.*)\1", token.string, re.DOTALL)
        if token.type != tokenize.STRING or quoted is None:
            continue
        before = token.line if token.start[0] == token.end[0] else token.line.splitlines()[0]
        begin = rules.offset(token.start[0], len(before[: token.start[1]].encode()))
        if any(first <= begin < last for first, last in rules.left_alone):
            continue
        if not rules_sql.is_sql(quoted[2]):
            continue
        begin += len(quoted[1])
        inside = [name for first, last, name in rules.functions if first <= begin < last]
        for edit in rules_sql.edits_in(quoted[2]):
            text = edit.text
            yield Edit(edit.rule, begin + edit.start, begin + edit.end, text, "".join(inside[-1:]))
