"""Parsing the math: Python's own grammar, restricted to a white-list of nodes. Nothing is ever evaluated."""

from __future__ import annotations

import ast
import itertools
import keyword
import math
import re
import warnings

from sparank_gen.lang import elsewhere
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.lang.syntax import AND, NOT, OR, Call, Expression, Index, Number, Reference, Statement
from sparank_gen.spec import errors
from sparank_gen.spec.source import Span, Text

BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow"}
COMPARISONS = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne"}
STATEMENTS = "each line is 'name[i,j] = expression'; a long one continues inside parentheses"
FOLDED = "YAML makes one line of these lines; write '|' after the key, as in 'math: |', to keep them apart"
# A keyword where a name belongs: before an index or a sign of equality.
KEYWORD = re.compile(rf"\b({'|'.join(keyword.kwlist)})\s*(?:\[|=(?!=))")
SYMBOLS = frozenset({*BINARY.values(), *COMPARISONS.values(), "neg"})
MAXIMUM_DEPTH = 200
JOINED = "write it as the condition of a choice, as in 'where(x > 0 and y > 0, a, b)'; a property holds one comparison: write two"
# What Python has and this language does not: what to say of it, and what to write instead.
FOREIGN: dict[type[ast.AST], tuple[str, str]] = {
    ast.BitXor: ("'^' is not an operator here", "write powers with '**'"),
    ast.BitAnd: ("'&' is not an operator here", "join comparisons with 'and'"),
    ast.BitOr: ("'|' is not an operator here", "join comparisons with 'or'"),
    ast.Invert: ("'~' is not an operator here", "write 'not' before a comparison"),
    ast.MatMult: ("'@' is not an operator here", "write a product of matrices as a sum: sum[j](W[i,j] * x[j])"),
    ast.FloorDiv: ("'//' divides extents alone", "write '/'"),
    ast.IfExp: ("a choice is written with 'where'", "write 'where(x > 0, a, b)'"),
    ast.BoolOp: ("'and' and 'or' join comparisons here", JOINED),
    ast.Not: ("'not' negates a comparison here", JOINED),
    ast.Compare: ("this is more than one comparison", JOINED),
    ast.Attribute: ("nothing has attributes here", "write 'name(x)' or 'name[axis](x)'"),
    ast.List: ("there are no lists here", "give quantities names, or use 'concat'"),
}


class _Parser:
    """Converts Python syntax nodes of one text; holds what it takes to find their places."""

    def __init__(self, text: Text) -> None:
        self.text = text
        # Python ends lines at carriage returns too.
        self.source = text.value.replace("\r", "\n")
        self.lines = self.source.split("\n")

    def span(self, node: ast.AST) -> Span:
        row, start, end_row, end = (getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset"))
        line = self.lines[row - 1].encode()
        column = len(line[:start].decode(errors="replace"))
        stop = len(line[:end].decode(errors="replace")) if end_row == row else len(self.lines[row - 1])
        return self.text.span(row - 1, column, stop - column)

    def after(self, first: ast.expr, whole: ast.expr) -> Text | None:
        """What is added to ``first``, with which ``whole`` begins; None where it is no sum on one line."""
        place, end = self.span(first), self.span(whole)
        found = (ast.get_source_segment(self.source, whole) or "")[place.length :]
        sign, offset = found.lstrip()[:1], found.lstrip()[1:].lstrip()
        if sign != "+" or "\n" in offset:
            return None
        return Text(offset, self.text.path, ((0, end.line, end.column + end.length - len(offset)),), self.text.source)

    def fail(self, node: ast.AST, message: str, remedy: str) -> errors.BadSyntax:
        return errors.BadSyntax(message, self.span(node), remedy)

    def tree(self, mode: str, remedy: str = STATEMENTS) -> ast.AST:
        try:
            with warnings.catch_warnings():
                # Python warns of such as '2and'; what is wrong with it is said below.
                warnings.simplefilter("ignore", SyntaxWarning)
                return ast.parse(self.source, mode=mode)
        except SyntaxError as error:
            row = min(max((error.lineno or 1) - 1, 0), len(self.lines) - 1)
            column = min(max((error.offset or 1) - 1, 0), max(len(self.lines[row]) - 1, 0))
            word = KEYWORD.search(self.lines[row].partition("#")[0])
            if word is not None:
                message = f"{word[1]!r} is a keyword of Python, and can be no name"
                raise errors.BadSyntax(message, self.text.span(row, word.start(1), len(word[1])), "choose another name") from None
            if self.lines[row][column] in elsewhere.PRINTED:
                written = elsewhere.PRINTED[self.lines[row][column]]
                message = f"{self.lines[row][column]!r} is not in the language"
                raise errors.BadSyntax(message, self.text.span(row, column, 1), f"write {written!r}") from None
            if "line continuation" in error.msg:
                message, remedy = "'\\\\' is not in the language", "math is plain text here: 'x * y', 'exp(x)', 'sum[i](x[i])'"
                raise errors.BadSyntax(message, self.text.span(row, max(column - 1, 0), 1), remedy) from None
            if "Perhaps you forgot a comma" in error.msg and not self.text.is_folded:
                message = "this is not an expression: two values stand side by side"
                raise errors.BadSyntax(message, self.text.span(row, column, 1), "write 'x * y' for a product") from None
            # Lines that Python names are those of the text, and not of the file.
            said = re.sub(r" \(detected at line \d+\)| on line \d+", "", error.msg)
            found, remedy = (": " + said, remedy) if not self.text.is_folded else ("", FOLDED)
            raise errors.BadSyntax(f"this is not an expression{found}", self.text.span(row, column, 1), remedy) from None
        except (ValueError, RecursionError, MemoryError):
            raise errors.BadSyntax("this is not an expression", self.text.span(), "split it into statements") from None

    def lines_of_code(self) -> list[ast.stmt]:
        """The definitions and values of the text, each on lines of its own, as comments of generated code show them."""
        tree = self.tree("exec")
        assert isinstance(tree, ast.Module)
        for before, node in itertools.pairwise(tree.body):
            if node.lineno == before.end_lineno:
                raise self.fail(node, "this is the second definition on one line", "write it on a line of its own")
        return tree.body

    def statements(self) -> tuple[Statement, ...]:
        return tuple(self.statement(node) for node in self.lines_of_code())

    def body(self) -> tuple[tuple[Statement, ...], Expression]:
        lines = self.lines_of_code()
        last = lines[-1] if lines else None
        if not isinstance(last, ast.Expr):
            remedy = "write an expression in the last line"
            raise errors.BadSyntax("a function ends with its value", self.text.span(len(self.lines) - 1), remedy)
        return tuple(self.statement(node) for node in lines[:-1]), self.expression(last.value, 0)

    def statement(self, node: ast.stmt) -> Statement:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            raise self.fail(node, "this is not a definition", "write 'name[i,j] = expression'")
        target = self.expression(node.targets[0], 0)
        if not isinstance(target, Reference):
            raise self.fail(node.targets[0], "a definition starts with a name and its indices", "write 'name[i,j] = …'")
        return Statement(target, self.expression(node.value, 0), node.lineno - 1, (node.end_lineno or node.lineno) - 1)

    def expression(self, node: ast.expr, depth: int) -> Expression:
        span, deeper = self.span(node), depth + 1
        self.require_depth(node, depth)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return self.number(node, node.value)
        if isinstance(node, ast.Name):
            return Reference(node.id, (), span)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            return Reference(node.value.id, self.indices(node.slice), span)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd):
            return self.expression(node.operand, deeper)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            operand = self.expression(node.operand, deeper)
            return Number(-operand.value, span) if isinstance(operand, Number) else Call("neg", (), (operand,), (), span)
        if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            pair = (self.expression(node.left, deeper), self.expression(node.right, deeper))
            return Call(BINARY[type(node.op)], (), pair, (), span)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            pair = (self.expression(node.left, deeper), self.expression(node.comparators[0], deeper))
            return Call(COMPARISONS[type(node.ops[0])], (), pair, (), span)
        if isinstance(node, ast.Call):
            return self.call(node, deeper)
        kind = type(node.op) if isinstance(node, (ast.BinOp, ast.UnaryOp)) else type(node)
        raise self.fail(node, *FOREIGN.get(kind, ("this is not part of the language", "see the language page for what may stand here")))

    def require_depth(self, node: ast.expr, depth: int) -> None:
        if depth > MAXIMUM_DEPTH:
            raise self.fail(node, "this expression is nested too deeply", "name a part of it in a statement of its own")

    def number(self, node: ast.expr, value: float) -> Number:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise errors.BadValue("this number is too large", self.span(node), "write a number that a float64 holds")
        return Number(number, self.span(node))

    def call(self, node: ast.Call, depth: int) -> Call:
        axes, parts = tuple[Index, ...](), tuple[Index, ...]()
        if isinstance(node.func, ast.Name):
            function = node.func.id
        elif isinstance(node.func, ast.Subscript) and isinstance(node.func.value, ast.Name):
            function = node.func.value.id
            axes, parts = self.axes(node.func.slice)
        else:
            raise self.fail(node.func, "this is not an operator", "write 'name(…)' or 'name[axis](…)'")
        if function in SYMBOLS:
            symbol = OPERATORS[function].symbol
            raise self.fail(node, f"{function!r} is written as a symbol", f"write '{symbol}' instead")
        keywords: list[tuple[str, float]] = []
        for option in node.keywords:
            value = self.expression(option.value, depth)
            if option.arg is None or not isinstance(value, Number):
                raise self.fail(option.value, "an option takes a number", "write 'eps=1e-5', say")
            keywords.append((option.arg, value.value))
        read = [self.condition if function == "where" and position == 0 else self.expression for position in range(len(node.args))]
        arguments = tuple(each(argument, depth) for each, argument in zip(read, node.args, strict=True))
        return Call(function, axes, arguments, tuple(keywords), self.span(node), parts)

    def condition(self, node: ast.expr, depth: int) -> Expression:
        """A condition: a comparison, several in a row, or conditions that are joined or negated."""
        self.require_depth(node, depth)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return Call(NOT, (), (self.condition(node.operand, depth + 1),), (), self.span(node))
        if isinstance(node, ast.BoolOp):
            parts = tuple(self.condition(part, depth + 1) for part in node.values)
            return Call(AND if isinstance(node.op, ast.And) else OR, (), parts, (), self.span(node))
        if isinstance(node, ast.Compare) and len(node.ops) > 1 and all(type(op) in COMPARISONS for op in node.ops):
            sides = tuple(self.expression(side, depth + 1) for side in (node.left, *node.comparators))
            return Call(" ".join(COMPARISONS[type(op)] for op in node.ops), (), sides, (), self.span(node))
        return self.expression(node, depth)

    def axes(self, node: ast.expr) -> tuple[tuple[Index, ...], tuple[Index, ...]]:
        """The axes of a call and, after a colon, the parts that one is made of."""
        first, *rest = node.elts if isinstance(node, ast.Tuple) and node.elts else [node]
        if not isinstance(first, ast.Slice) or first.lower is None or first.upper is None or first.step is not None:
            return self.indices(node), ()
        return (self.index(first.lower),), tuple(self.index(part) for part in (first.upper, *rest))

    def indices(self, node: ast.expr) -> tuple[Index, ...]:
        return tuple(self.index(element) for element in (node.elts if isinstance(node, ast.Tuple) else [node]))

    def index(self, node: ast.expr) -> Index:
        if isinstance(node, ast.Name):
            return Index(node.id, self.span(node))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return Index(node.value, self.span(node))
        first = node
        while isinstance(first, ast.BinOp):
            first = first.left
        offset = self.after(first, node)
        if not isinstance(first, ast.Name) or offset is None:
            raise self.fail(node, "an index is a name or a whole number", "write 'x[m,i]', 'x[0,i]' or 'x[m,i + 2]'")
        return Index(first.id, self.span(node), offset)


def parse_body(text: Text) -> tuple[tuple[Statement, ...], Expression]:
    """The definitions and, in the last line, the value of a function. Raises BadSyntax as :func:`parse_statements` does."""
    return _Parser(text).body()


def parse_statements(text: Text) -> tuple[Statement, ...]:
    """The definitions in ``text``. Raises BadSyntax with the place of what is not in the language."""
    return _Parser(text).statements()


def parse_expression(text: Text, remedy: str = "write one expression, as in 'x[i] + 1'") -> Expression:
    """The one expression in ``text``. Raises BadSyntax as :func:`parse_statements` does, with ``remedy`` for what is none."""
    parser = _Parser(text)
    tree = parser.tree("eval", remedy)
    assert isinstance(tree, ast.Expression)
    return parser.expression(tree.body, 0)


def expression_of(source: str) -> Expression:
    """The expression in a string of the compiler's own tables."""
    return parse_expression(Text(source, "<table>", ((0, 1, 1),), (source,)))
