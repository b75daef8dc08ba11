"""Expressions of a kernel: the value of a node at given positions of the unrolled axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sparank_gen.backends.torch.lower import number_code
from sparank_gen.backends.torch.values import Scalar
from sparank_gen.backends.triton.reading import Reader
from sparank_gen.backends.triton.scope import infinite
from sparank_gen.backends.triton.tiles import Tile, expansion
from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, FIXED, Node, axis_of
from sparank_gen.ir.parts import factors_of
from sparank_gen.ir.rewrite import is_tensor
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.plan.stages import contraction_of

LINEAR = frozenset({"add", "sub", "mul", "neg"})
# Powers beyond are by logarithms, which takes no more operations however large the exponent is; rounding is much the same.
LARGEST_POWER = 64
NEUTRAL = {"sum": 0.0, "max": -np.inf, "min": np.inf, "prod": 1.0}


@dataclass
class Numbers:
    """The numbers that the host computes for all kernels of a mode.

    Attributes:
        prefix: what their names start with, and no other name.
        constants: the compile-time constant that each is, by its expression.
    """

    prefix: str = "NUMBER"
    constants: dict[str, str] = field(default_factory=dict)

    def constant(self, code: str) -> str:
        """The constant of a number."""
        count = len(self.constants) + 1
        return self.constants.setdefault(code, self.prefix if count == 1 else f"{self.prefix}_{count}")


@dataclass
class ExpressionPrinter(Reader):
    """Prints expressions over the variables of a kernel.

    Attributes:
        numbers: the numbers that the host computes.
    """

    numbers: Numbers = field(default_factory=Numbers)

    def expression(self, node: Node, env: Mapping[str, str]) -> Tile | Scalar:
        """The value of ``node`` at the positions ``env`` of its unrolled axes."""
        if node in self.values:
            return self.read(self.values[node], env)
        if not node.axes and not is_tensor(node):
            return self.number(node)
        if node.op == "leaf":
            return self.leaf(node, env)
        if node.op == "extent":
            return Tile(_full(self.number_code(node.data, env)), ())
        if node.op == "position":
            (axis,) = node.over
            return Scalar(env[axis]) if self.is_unrolled(axis) else Tile(self.lane(axis), (axis,))
        if node.op == "rename":
            return self.renamed(node, env)
        if node.op in ("select", "place", "stack"):
            return self.view(node, env)
        operator = OPERATORS[node.op]
        if operator.kind in ("pointwise", "comparison"):
            return self.pointwise(node, env)
        return self.reduced(node, env)

    def view(self, node: Node, env: Mapping[str, str]) -> Tile | Scalar:
        return {"select": self.select, "place": self.place, "stack": self.stack}[node.op](node, env)

    def leaf(self, node: Node, env: Mapping[str, str]) -> Tile:
        name, indices = node.data
        if BATCH not in node.axes or not self.is_kept(node):
            tile = self.held_row(node, env) if self.is_held_row(node) else self.load(node, env)
            code = self.present(name, tile, tile.axes)
            return replace(tile, code=f"({code})" if name in self.optional else code)
        kept = self.values[self.leaf_key(node)]
        extents = self.slot_extents(self.storages[name], indices).items()
        position = {
            slot: self.position(index, extent, env)
            for (slot, extent), index in zip(extents, indices, strict=True)
            if slot in kept.unrolled
        }
        pairs = zip(self.loaded[self.leaf_key(node)].data[1], indices, strict=True)
        names = {axis_of(own): axis_of(index) for own, index in pairs if not isinstance(index, FIXED)}
        return self.read(kept, position).renamed(names)

    def number(self, node: Node) -> Scalar:
        """A number: arithmetic on extents as it is, anything else computed on the host and passed in."""
        if node.op == "constant":
            return Scalar(number_code(node.data))
        if node.op == "extent":
            return Scalar(self.number_code(node.data, {}))
        return Scalar(self.numbers.constant(self.host_number(node).code))

    def host_number(self, node: Node) -> Scalar:
        """Python code for a number."""
        if node.op == "constant":
            return Scalar(number_code(node.data))
        if node.op == "extent":
            return Scalar(node.data.code(self.symbols))
        return Scalar(OPERATORS[node.op].scalar.format(*map(self.host_number, node.args)))

    def renamed(self, node: Node, env: Mapping[str, str]) -> Tile | Scalar:
        names = dict(node.data)
        inner = dict(env)
        for old, new in names.items():
            if new in env:
                inner[old] = env[new]
        value = self.expression(node.args[0], inner)
        return value.renamed(names) if isinstance(value, Tile) else value

    def select(self, node: Node, env: Mapping[str, str]) -> Tile | Scalar:
        (axis,), position = node.over, node.data
        if self.is_unrolled(axis):
            return self.expression(node.args[0], {**env, axis: self.fixed(position, env)})
        tile = self.as_tile(self.expression(node.args[0], env))
        if axis not in tile.axes:
            return tile
        at = tile.axes.index(axis)
        rest = tuple(other for other in tile.axes if other != axis)
        chosen = f"tl.where({self.lane(axis)}{expansion((axis,), tile.axes)} == {self.fixed(position, env)}, {tile.code}, 0.0)"
        return Tile(f"tl.sum({chosen}, {at})", rest, padding={a: v for a, v in tile.padding.items() if a != axis})

    def place(self, node: Node, env: Mapping[str, str]) -> Tile | Scalar:
        (axis,), position = node.over, node.data
        value = self.as_tile(self.expression(node.args[0], env))
        if self.is_unrolled(axis):
            if env[axis].isdigit() and isinstance(position, int):
                return value if int(env[axis]) == position else Scalar("0.0")
            code = f"{value.code} if {env[axis]} == {self.fixed(position, env)} else tl.zeros_like({bare(value.code)})"
            padding = {a: v for a, v in value.padding.items() if v == 0.0}
            return Tile(f"({code})", value.axes, padding=padding)
        axes = self.split(frozenset({*value.axes, axis}))[1]
        lane = f"{self.lane(axis)}{expansion((axis,), axes)}"
        code = value.aligned(axes).code if value.axes else value.code
        padding = {a: v for a, v in value.padding.items() if v == 0.0} | {axis: 0.0}
        return Tile(f"tl.where({lane} == {self.fixed(position, env)}, {code}, 0.0)", axes, padding=padding)

    def stack(self, node: Node, env: Mapping[str, str]) -> Tile | Scalar:
        (axis,) = node.over
        if self.is_unrolled(axis) and env[axis].isdigit():
            return self.expression(node.args[int(env[axis])], env)
        pieces = [self.as_tile(self.expression(piece, env)) for piece in node.args]
        union = frozenset(a for piece in pieces for a in piece.axes)
        if self.is_unrolled(axis):
            axes = self.split(union)[1]
            codes = [p.ordered(axes).code if set(p.axes) == union else self.broadcast(p, axes) for p in pieces]
            code = codes[-1]
            for position in reversed(range(len(codes) - 1)):
                code = f"({codes[position]}) if {env[axis]} == {position} else ({code})"
            return Tile(f"({code})", axes)
        axes = self.split(union | {axis})[1]
        lane = f"{self.lane(axis)}{expansion((axis,), axes)}"
        codes = [piece.aligned(axes).code if piece.axes else _full(piece.code) for piece in pieces]
        code = codes[-1]
        for position in reversed(range(len(codes) - 1)):
            code = f"tl.where({lane} == {position}, {codes[position]}, {code})"
        return Tile(code, axes)

    def pointwise(self, node: Node, env: Mapping[str, str]) -> Tile | Scalar:
        operator = OPERATORS[node.op]
        values = [self.expression(arg, env) for arg in node.args]
        tiles = [value for value in values if isinstance(value, Tile)]
        if not tiles and node.op != "where":
            return Scalar(operator.scalar.format(*values))
        axes = self.union(tiles)
        values = [value.aligned(axes) if isinstance(value, Tile) and value.axes else value for value in values]
        padding = {} if self.bounds_product(node) else self.padding_after(node.op, values, axes)
        exponent = node.args[1].data if node.op == "pow" and node.args[1].op == "constant" else 0
        if exponent == int(exponent) and 1 <= exponent <= LARGEST_POWER:
            exponent = int(exponent)
            base = bare(values[0].code)
            call = f"square({base})" if exponent == 2 else f"integer_power({base}, {exponent})"
            return Tile(call, axes, padding=padding)
        if node.op == "pow" and isinstance(values[0], Scalar):
            values[0] = Tile(_full(values[0].code), ())
        if node.op == "where":
            values = [values[0], *(
                Scalar(_full(value.code)) if isinstance(value, Scalar) else value for value in values[1:]
            )]
            if isinstance(values[0], Scalar):
                whole = [self.broadcast(self.as_tile(value), axes) if axes else value.code for value in values[1:]]
                return Tile(f"({whole[0]} if {values[0].code} else {whole[1]})", axes, padding=padding)
        template = operator.triton or operator.torch
        if node.op == "div" and isinstance(values[1], Tile):
            inverse = f"reciprocal({bare(values[1].code)})"
            if node.args[0].op == "constant" and node.args[0].data == 1:
                return Tile(inverse, axes, padding=padding)
            if node.args[1].axes < node.args[0].axes:
                # The compiler takes the reciprocal once for all that is divided by the same.
                left = values[0].code if values[0].precedence >= operator.precedence else f"({values[0].code})"
                return Tile(f"{left} * {inverse}", axes, operator.precedence, padding)
        infix = bool(operator.symbol) and not operator.triton
        codes = []
        for position, value in enumerate(values):
            tight = operator.precedence + (1 if position else 0)
            if infix:
                codes.append(value.code if value.precedence >= tight else f"({value.code})")
            else:
                codes.append(_full(value.code) if node.op != "where" and _is_rounded(value) else bare(value.code))
        return Tile(template.format(*codes), axes, operator.precedence if infix else 10, padding)

    def bounds_product(self, node: Node) -> bool:
        """Whether a node may make finite numbers of a matrix product's infinite ones.

        The product of an infinite operand and a weight's empty lanes is not 0, but nan, which then is worse than the rest.
        """
        inner = ir.reachable(node.args)
        return node.op not in LINEAR and any(contraction_of(other, self.is_unrolled) is not None for other in inner)

    def union(self, tiles: Sequence[Tile]) -> tuple[str, ...]:
        """The dimensions of a pointwise result: those of an operand that has them all, or the canonical order."""
        union = frozenset(axis for tile in tiles for axis in tile.axes)
        whole = next((tile.axes for tile in tiles if len(tile.axes) == len(union)), None)
        return whole if whole is not None else self.split(union)[1]

    def padding_after(self, op: str, values: Sequence[Tile | Scalar], axes: Sequence[str]) -> dict[str, float]:
        """What a pointwise result holds in the padding of each axis: known where all operands are."""
        meaning = OPERATORS[{"max": "maximum", "min": "minimum", "sum": "add"}.get(op, op)].meaning
        known: dict[str, float] = {}
        for axis in axes:
            held: list[float | None] = []
            for value in values:
                if isinstance(value, Scalar):
                    held.append(_literal(value.code))
                else:
                    held.append(value.padding.get(axis) if axis in value.axes else None)
            if all(number is not None for number in held):
                with np.errstate(all="ignore"):
                    result = float(meaning(*(np.float64(number) for number in held)))
                if np.isfinite(result):
                    known[axis] = result
        return known

    def reduced(self, node: Node, env: Mapping[str, str]) -> Tile | Scalar:
        """A reduction over dimensions of a tile."""
        if node.op == "product_of_others":
            return self.lane_others(self.as_tile(self.expression(node.args[0], env)), node.over, env)
        contracted = self.contraction(node, env) if node.op == "sum" else None
        if contracted is not None:
            return contracted
        tile = self.as_tile(self.expression(node.args[0], env))
        tile = self.broadcast_over(tile, node.over)
        tile = self.restored(tile, node.over, NEUTRAL[node.op], env)
        for axis in node.over:
            at = tile.axes.index(axis)
            call = f"tl.sum({tile.code}, {at})" if node.op == "sum" else f"tl.reduce({tile.code}, {at}, {OPERATORS[node.op].triton})"
            if node.op == "sum" and len(tile.axes) == 3 and at == 1 and _is_outer_product(node.args[0], tile.axes):
                call = f"middle_sum({bare(tile.code)})"
            padding = {a: v for a, v in tile.padding.items() if a != axis and v == NEUTRAL[node.op]}
            tile = Tile(call, tile.axes[:at] + tile.axes[at + 1 :], padding=padding)
        return tile

    def contraction(self, node: Node, env: Mapping[str, str]) -> Tile | None:
        """A sum of products with one stored parameter as a matrix product, or None where it is none."""
        found = None if node.args[0] in self.values else contraction_of(node, self.is_unrolled)
        if found is None:
            return None
        outer = tuple(axis for axis in self.split(found.weight.axes)[1] if axis not in node.over)
        return self.matrix_product(found.weight, found.operand, outer, self.split(frozenset(node.over))[1], env)

    def matrix_product(
        self, weight: Node, operand: Node, outer: tuple[str, ...], inner: tuple[str, ...], env: Mapping[str, str]
    ) -> Tile:
        tile = self.as_tile(self.expression(operand, env))
        rows = tuple(axis for axis in tile.axes if axis not in inner)
        tile = self.restored(tile.ordered((*rows, *inner)), inner, 0.0, env)
        left = self.flat(tile.code, (rows, inner))
        if self.walks and self.is_kept(weight):
            kept, read = self.held_tile(weight, (inner, outer), env)
            self.held[kept.name] = (*kept.unrolled, *inner, *outer)
            right = self.read(kept, read).code
        else:
            variable = self.unique(f"{weight.data[0]}_tile")
            self.emit(f"{variable} = {self.load(weight, env, (*inner, *outer)).code}")
            right = self.flat(variable, (inner, outer))
        code = f"contract({left}, {right}, ACC, PRECISION)"
        padding = dict.fromkeys(outer, 0.0)
        if len(rows) + len(outer) > 2:
            sizes = ", ".join(self.size(axis) for axis in (*rows, *outer))
            code = f"tl.reshape({code}, ({sizes}))"
        return Tile(code, (*rows, *outer), padding=padding)

    def as_tile(self, value: Tile | Scalar) -> Tile:
        return value if isinstance(value, Tile) else Tile(value.code, (), value.precedence)

    def lane_others(self, tile: Tile, over: Sequence[str], env: Mapping[str, str]) -> Tile:
        """For every position along lanes, the product of what the other positions hold."""
        tile = self.broadcast_over(tile, over)
        rows = tuple(axis for axis in tile.axes if axis not in over)
        tile = self.restored(tile.ordered((*rows, *over)), over, 1.0, env)
        groups = [" * ".join(self.size(axis) for axis in group) or "1" for group in (rows, over)]
        sizes = ", ".join(self.size(axis) for axis in tile.axes)
        code = f"product_of_others(tl.reshape({tile.code}, ({', '.join(groups)})))"
        return Tile(f"tl.reshape({code}, ({sizes}{',' if len(tile.axes) == 1 else ''}))", tile.axes)

    def broadcast_over(self, tile: Tile, over: Sequence[str]) -> Tile:
        """``tile`` at full size along ``over``."""
        missing = [axis for axis in over if axis not in tile.axes]
        if not missing:
            return tile
        axes = self.split(frozenset({*tile.axes, *missing}))[1]
        return Tile(self.broadcast(tile, axes), axes)

def _is_outer_product(node: Node, axes: Sequence[str]) -> bool:
    """Whether a product of three dimensions may have a factor without the first, and one without the last."""
    while node.op == "rename":
        names, node = {new: old for old, new in node.data}, node.args[0]
        axes = [names.get(axis, axis) for axis in axes]
    factors = factors_of(node)
    return len(factors) > 1 and all(any(axis not in factor.axes for factor in factors) for axis in (axes[0], axes[2]))


def neutral_code(op: str) -> str:
    return infinite(NEUTRAL[op])


def _is_rounded(value: Tile | Scalar) -> bool:
    """Whether a number would lose digits as the float32 that a function of tiles takes it for."""
    if not isinstance(value, Scalar):
        return False
    number = _literal(value.code)
    return number is None or float(np.float32(number)) != number


def _full(code: str) -> str:
    """A number as a tile that broadcasts, in the type that kernels compute in."""
    return f"tl.full((), {code}, ACC)"


def _literal(code: str) -> float | None:
    try:
        return float(code)
    except ValueError:
        return None


def bare(code: str) -> str:
    """An expression without parentheses around the whole of it, as an argument has it."""
    depth = 0
    for position, character in enumerate(code):
        depth += (character == "(") - (character == ")")
        if depth == 0 and position < len(code) - 1:
            return code
    return code[1:-1] if code.startswith("(") else code
