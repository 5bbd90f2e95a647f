# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Each rule makes of a small source what it says, and nothing that does not compile."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

import pytest
from multiboard_conformance.mutation import edits, rules_lua, rules_python, rules_sql
from multiboard_conformance.mutation.edits import Edit

Rules = Callable[[bytes], Iterator[Edit]]


def made(rules: Rules, source: str, rule: str) -> list[str]:
    """The lines that a rule changes, as it changes them; all is inside of a function."""
    text = textwrap.dedent(source).encode()
    lines = [e.lines(text)[2] for e in rules(text) if e.rule == rule]
    return ["; ".join(part.strip() for part in line.splitlines()) for line in lines]


@pytest.mark.parametrize(
    ("rule", "line", "expected"),
    [
        (edits.DROP_CONDITION, "x = (a or b) and c",
         ["x = (True) and c", "x = (False or b) and c", "x = (a or False) and c",
          "x = (a or b) and True"]),
        (edits.DROP_CONDITION, "if a < 1: return b", ["if False: return b"]),
        (edits.DROP_CONDITION, "x = [y for y in a if y > 1]", ["x = [y for y in a if True]"]),
        (edits.NEGATE, "while not a: b()", ["while (a): b()"]),
        (edits.NEGATE, "x = 1 if a() else 2", ["x = 1 if (not (a())) else 2"]),
        (edits.SWAP_BOUND, "x = 'ä', a < b", ["x = 'ä', a <= b"]),
        (edits.SWAP_BOUND, "x = a is not b", ["x = a is b"]),
        (edits.SWAP_BOUND, "x = 0 <= a < 9", ["x = 0 < a < 9", "x = 0 <= a <= 9"]),
        (edits.SWAP_BOUND, "x = min(a, b)", ["x = max(a, b)"]),
        (edits.SWAP_AND_OR, "x = a and b and c", ["x = a or b and c", "x = a and b or c"]),
        (edits.SWAP_SIGN, "x = a + b", ["x = a - b"]),
        (edits.SWAP_SIGN, "x = a + 'text'", []),
        (edits.CHANGE_CONSTANT, "x = (1, 0.5, True)",
         ["x = (2, 0.5, True)", "x = (1, 1.5, True)", "x = (1, 0.5, False)"]),
        (edits.CHANGE_CONSTANT, "x: Literal[1] = setting(1, minimum=2)", []),
        (edits.FORGET_FIELD, "x = Lease(key, token=1, holder=h)",
         ["x = Lease(key, holder=h)", "x = Lease(key, token=1)"]),
        (edits.FORGET_FIELD, "x = {'a': 1, 'b': 2}", ["x = {'b': 2}", "x = {'a': 1}"]),
        (edits.FORGET_FIELD, "x = {'a': 1}", []),
        (edits.DROP_STATEMENT, "self.a = b", ["pass"]),
        (edits.DROP_STATEMENT, "a = b", []),  # a name that is missing is found at once
        (edits.DROP_STATEMENT, "raise ValueError", ["pass"]),
        (edits.DROP_STATEMENT, "LOG.debug('said')", []),
        (edits.DROP_WITH, "with self._lock: a()", ["if True: a()"]),
        (edits.DROP_WITH, "with open(a) as b: a()", []),
    ],
)  # fmt: skip
def test_a_rule_for_python(rule: str, line: str, expected: list[str]) -> None:
    source = f"def verb():\n    {line}\n"
    assert sorted(made(rules_python.edits_of, source, rule)) == sorted(expected)


def test_writes_are_reordered_and_handlers_dropped() -> None:
    source = """
        class Store:
            def verb(self):
                try:
                    self.a = 1
                    self.b()
                    x = self.c()
                except (KeyError, OSError):
                    self.d()
    """
    assert made(rules_python.edits_of, source, edits.REORDER) == ["self.b(); self.a = 1"]
    assert made(rules_python.edits_of, source, edits.DROP_HANDLER) == [
        "except (KeyError,):",
        "except (OSError,):",
    ]
    text = textwrap.dedent(source).encode()
    assert {edit.scope for edit in rules_python.edits_of(text)} == {"Store.verb"}


def test_what_no_promise_is_about_is_left_alone() -> None:
    source = '''
        """Text of a module, WHERE a = 1 AND b = 2."""
        def __repr__(self):
            return self.a + self.b
        def verb(a: int | None, *, b: Literal[1]) -> "1 < 2":
            """SELECT a WHERE b = 1 AND c = 2."""
    '''
    assert list(rules_python.edits_of(textwrap.dedent(source).encode())) == []


def test_sql_in_strings_is_changed_where_it_stands() -> None:
    source = """
        def verb(tx):
            tx.execute(
                "SELECT a FROM t WHERE b = ?"
                " AND c <= ? ORDER BY d", (1,)
            )
    """
    assert made(rules_python.edits_of, source, edits.SWAP_ORDER) == [
        '" AND c <= ? ORDER BY d DESC", (1,)'
    ]
    assert made(rules_python.edits_of, source, edits.DROP_CONDITION) == [
        '"SELECT a FROM t WHERE (b = ? OR TRUE)"',
        '" AND (c <= ? OR TRUE) ORDER BY d", (1,)',
    ]


@pytest.mark.parametrize(
    ("rule", "line", "expected"),
    [
        (edits.DROP_CONDITION, "SELECT a FROM t WHERE b = 1 AND (c > 2 OR d) LIMIT 1",
         ["SELECT a FROM t WHERE (b = 1 OR TRUE) AND (c > 2 OR d) LIMIT 1",
          "SELECT a FROM t WHERE b = 1 AND ((c > 2 OR d) OR TRUE) LIMIT 1",
          "SELECT a FROM t WHERE b = 1 AND (c > 2 OR (d AND FALSE)) LIMIT 1"]),
        (edits.SWAP_BOUND, "DELETE FROM t WHERE a <= f(b => 1)",
         ["DELETE FROM t WHERE a < f(b => 1)"]),
        (edits.NEGATE, "DELETE FROM t WHERE a IS NULL", ["DELETE FROM t WHERE a IS NOT NULL"]),
        (edits.NEGATE, "CREATE TABLE IF NOT EXISTS t", []),
        (edits.FORGET_FIELD, "UPDATE t SET a = f(b, ?), c = 2 WHERE d = 3",
         ["UPDATE t SET a = CASE WHEN TRUE THEN a ELSE f(b, ?) END, c = 2 WHERE d = 3",
          "UPDATE t SET a = f(b, ?), c = CASE WHEN TRUE THEN c ELSE 2 END WHERE d = 3"]),
        (edits.CHANGE_CONSTANT, "UPDATE t1 SET a = 1 -- by 1", ["UPDATE t1 SET a = 2 -- by 1"]),
        (edits.SWAP_SIGN, "UPDATE t SET a = a + 1", ["UPDATE t SET a = a - 1"]),
        (edits.SWAP_ORDER, "SELECT a FROM t ORDER BY a DESC", ["SELECT a FROM t ORDER BY a ASC"]),
        (edits.DROP_STATEMENT, "BEGIN DELETE FROM t; END", ["BEGIN NULL; END"]),
    ],
)  # fmt: skip
def test_a_rule_for_sql(rule: str, line: str, expected: list[str]) -> None:
    assert made(rules_sql.edits_of, line, rule) == expected


@pytest.mark.parametrize(
    ("rule", "line", "expected"),
    [
        (edits.DROP_CONDITION, "if a and f(b) then c() end",
         ["if false then c() end", "if true and f(b) then c() end",
          "if a and true then c() end"]),
        (edits.NEGATE, "if not a then c() end", ["if a then c() end"]),
        (edits.SWAP_BOUND, "if a ~= b then c() end", ["if a == b then c() end"]),
        (edits.SWAP_BOUND, "local x = math.min(a, b)", ["local x = math.max(a, b)"]),
        (edits.SWAP_AND_OR, "local x = a or 1", ["local x = a and 1"]),
        (edits.SWAP_SIGN, "local x = a - b", ["local x = a + b"]),
        (edits.CHANGE_CONSTANT, "local x = ARGV[1] + 7", ["local x = ARGV[1] + 8"]),
        (edits.FORGET_FIELD, "return {a = 1, b = 2, 3}",
         ["return {b = 2, 3}", "return {a = 1, 3}"]),
        (edits.FORGET_FIELD, "call('HSET', KEY, 'a', 1, 'b', 2)",
         ["call('HSET', KEY, 'b', 2)", "call('HSET', KEY, 'a', 1)"]),
        (edits.DROP_STATEMENT, "p.a = 1", [""]),
        (edits.DROP_STATEMENT, "local a = 1", []),
        (edits.REORDER, "call('A') call('B')", ["call('B') call('A')"]),
    ],
)  # fmt: skip
def test_a_rule_for_lua(rule: str, line: str, expected: list[str]) -> None:
    assert sorted(made(rules_lua.edits_of, line, rule)) == sorted(expected)


def test_the_scope_of_lua_is_its_function() -> None:
    (edit,) = rules_lua.edits_of(b"local function find(key)\n  return key < 'b'\nend\n")
    assert (edit.rule, edit.scope) == (edits.SWAP_BOUND, "find")
