"""From the graph to torch statements: what has a variable, lists and tensors, pointwise work and reductions.

Contractions, joins and views have modules of their own. Values are dense tensors whose dimensions are named, or Python
lists along one modality axis: features and per-modality parameters stay lists as long as nothing needs them stacked.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from sparank_gen.backends.code import function_called
from sparank_gen.backends.torch import contract, gemm, join, leaves, memory, views
from sparank_gen.backends.torch.affine import affine
from sparank_gen.backends.torch.emit import NOUNS, Emitter
from sparank_gen.backends.torch.pieces import number_of_each, over_joined
from sparank_gen.backends.torch.values import Dense, Listed, Scalar, Value, composed, parenthesised
from sparank_gen.ir import node as ir
from sparank_gen.ir.node import Definition, Node, Program
from sparank_gen.ir.parameters import Holder
from sparank_gen.lang.layouts import Layout
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.plan.schedule import LISTED

LONGEST_OPERAND = 60
# Of tensors with fewer dimensions torch reduces any as fast.
LEAST_APART = 4


class Lowering:
    """Lowers the nodes of one program into one function.

    Args:
        program: a simplified program.
        modules: where the parameters live.
        emitter: receives the statements.
        stacked: the dimension along which the features are stacked into one tensor first; None where they stay a list.
        usual: the sizes of a usual layer, which decide between ways to compute the same; None where it is computed once.
        kept_stacks: the lists that are stacked more than once, which are stacked into a variable.
        writes: whether the function is told by ``in_place`` that results may take the memory of others.
        temporaries: whether results take the memory of operands that have no name, as nothing else can read them.

    Attributes:
        stacks: how often each list that has a variable is stacked.
        multiplied_lists: the lists whose tensors are multiplied by a matrix each, all in one tensor.
    """

    def __init__(
        self,
        program: Program,
        modules: Sequence[Holder],
        emitter: Emitter,
        stacked: int | None,
        usual: Mapping[str, int | float] | None = None,
        kept_stacks: Collection[str] = (),
        writes: bool = False,
        temporaries: bool = False,
    ) -> None:
        self.program = program
        self.usual = usual
        self.emitter = emitter
        self.parameters: dict[str, tuple[Layout, str | None]] = {
            parameter.layout.name: (parameter.layout, module.per) for module in modules for parameter in module.parameters
        }
        self.variables = {name: emitter.unique(name) for name in self.parameters}
        self.definitions = {definition.node: definition for definition in program.definitions}
        self.values: dict[Node, Value] = {}
        self.order = {axis: position for position, axis in enumerate(program.extents)}
        self.piece_names: dict[Node, tuple[str, str]] = {}
        for definition in program.definitions:
            if definition.node.op == "stack" and definition.source:
                for position, piece in enumerate(definition.node.args):
                    self.piece_names.setdefault(piece, (f"{definition.name}_{position}", _piece_shown(definition, position)))
        self.uses: Counter[Node] = Counter()
        self.uses_of_output: Counter[Node] = Counter()
        self.readers: dict[Node, list[Node]] = {}
        self.multiplied: Counter[Node] = Counter()
        self.joins: dict[tuple[Node, tuple[str, ...]], Dense] = {}
        self.kept_stacks = kept_stacks
        self.writes = writes
        self.temporaries = temporaries
        self.stacks: Counter[str] = Counter()
        self.multiplied_lists: set[str] = set()
        self.stacked_lists: dict[str, str] = {}
        self.positions: dict[str, set[tuple[tuple[int, int], ...]]] = {}
        self.unbound: dict[str, list[str]] = {}
        self.feature_parts: dict[tuple[int, int], list[Dense]] = {}
        self.taken_apart: dict[tuple[Node, str], list[Dense]] = {}
        self.feature_tensor: Dense | None = None
        if stacked is not None:
            value = emitter.assign(leaves.stacked_features(self, stacked), "tokens")
            assert isinstance(value, Dense)
            self.feature_tensor = value

    def count_uses(self, roots: Sequence[Node], outputs: int = 1) -> None:
        """Learn which nodes are read more than once, so that they become variables, what reads them, and at which positions
        tensors are read; the first ``outputs`` of ``roots`` are always asked for."""
        for node in ir.reachable(roots):
            for arg in node.args:
                self.readers.setdefault(arg, []).append(node)
            if node.op == "leaf":
                fixed = tuple((slot, index) for slot, index in enumerate(node.data[1]) if isinstance(index, int))
                self.positions.setdefault(node.data[0], set()).add(fixed)
        self.uses = Counter({node: len(readers) for node, readers in self.readers.items()})
        self.uses.update(roots)
        self.uses_of_output = Counter(arg for node in ir.reachable(roots[:outputs]) for arg in node.args)
        self.uses_of_output.update(roots[:outputs])
        maps = [gemm.match_gemm(self, node) for node in ir.reachable(roots)]
        self.multiplied = Counter(found.operand for found in maps if found is not None)

    def is_stacked(self, node: Node, axis: str) -> bool:
        """Whether all that reads ``node`` takes it as one tensor, and nothing as a list along ``axis``."""
        return not self.is_result(node) and all(
            reader.op in OPERATORS and reader.op not in LISTED and axis in reader.over for reader in self.readers.get(node, [])
        )

    def is_result(self, node: Node) -> bool:
        """Whether ``node`` is a result, whatever else reads it."""
        return self.uses[node] > len(self.readers.get(node, []))

    def has_variable(self, node: Node) -> bool:
        """Whether ``node`` is given a variable."""
        return node in self.definitions or self.uses[node] > 1

    def lower(self, node: Node) -> Value:
        """The value of ``node``; statements that compute it are emitted as needed."""
        if node not in self.values:
            value = self._lower(node)
            self.values[node] = self._remember(node, value)
        return self.values[node]

    def _remember(self, node: Node, value: Value) -> Value:
        """Give a value a variable where the math names it, or where it is used again."""
        if node.op in ("leaf", "constant", "extent") or isinstance(value, Scalar):
            return value
        if node in self.definitions:
            definition = self.definitions[node]
            return value if value.is_name else self.emitter.assign(value, definition.name, definition.source)
        if node.op == "rename":
            return value
        if self.uses[node] > 1 and not value.is_name and node in self.piece_names:
            return self.emitter.assign(value, *self.piece_names[node])
        if self.uses[node] > 1 and not value.is_name and node.op == "select":
            return self.emitter.assign(value, views.shown_view(value)) if isinstance(value, Dense) and value.picked else value
        return self.named(node, value) if self.uses[node] > 1 else value

    def named(self, node: Node, value: Value) -> Value:
        """``value``, as a variable if it is not one yet: called by what made it."""
        is_projection = isinstance(value, Dense) and function_called(value.code) in ("F.linear", "joined_linear")
        name = "projected" if is_projection else NOUNS.get(node.op, node.op)
        return value if value.is_name else self.emitter.assign(value, name)

    def _lower(self, node: Node) -> Value:
        if node.op == "leaf":
            return leaves.leaf(self, node)
        if node.op == "constant":
            return Scalar(number_code(node.data))
        if node.op == "extent":
            code = node.data.code(self.emitter.symbols)
            if node.axes:
                return number_of_each(self, next(iter(node.axes)), code)
            return Scalar(code)
        if node.op == "rename":
            return views.rename(self, node)
        if node.op == "select":
            return views.select(self, node)
        if node.op == "stack":
            return views.stack(self, node)
        if node.op == "place":
            return views.place(self, node)
        if node.op in ("slice", "pad", "concat"):
            return join.cut_or_joined(self, node)
        kind = OPERATORS[node.op].kind
        if kind in ("pointwise", "comparison"):
            return affine(self, node) or self.pointwise(node)
        if node.op == "sum":
            return contract.contraction(self, node)
        return self.over_axes(node)

    # Views

    def unpacked(self, code: str, dimensions: Sequence[tuple[str, ...]], axes: tuple[str, ...]) -> Dense:
        """A stored tensor with each composed dimension taken apart."""
        for position in reversed(range(len(dimensions))):
            if len(dimensions[position]) > 1:
                code = f"{code}.unflatten({position}, {self.sizes(dimensions[position])})"
        return Dense(code, axes)

    def sizes(self, axes: Sequence[str]) -> str:
        """The extents of axes as a tuple in code."""
        return f"({', '.join(self.emitter.extent_code(axis) for axis in axes)}{',' if len(axes) == 1 else ''})"

    # Lists and dense tensors

    def sorted(self, axes: set[str]) -> tuple[str, ...]:
        """Axes in canonical order: modality axes, the batch, feature axes."""
        return tuple(sorted(axes, key=lambda axis: self.order[axis]))

    def tensor(self, value: Value) -> Dense | Listed:
        """A plain number as a tensor."""
        return Dense(f"h[0].new_tensor({value.code})", ()) if isinstance(value, Scalar) else value

    def dense(self, value: Dense | Listed) -> Dense:
        """One tensor for a value; a list is stacked."""
        if isinstance(value, Dense):
            return value
        sequence = value.sequence
        stacked = Dense(f"torch.stack({sequence})", value.axes)
        self.stacks.update([sequence] if value.is_name else [])
        if sequence not in self.kept_stacks:
            return stacked
        if sequence not in self.stacked_lists:
            named = self.emitter.assign(stacked, f"{sequence}_stacked")
            assert isinstance(named, Dense)
            self.stacked_lists[sequence] = named.code
        return stacked.named(self.stacked_lists[sequence])

    def as_list(self, value: Dense, axis: str) -> Listed:
        """A tensor as the sequence of its slices along ``axis``: views, nothing is copied."""
        named = self.emitter.name_for(value, "stacked")
        assert isinstance(named, Dense)
        rest = tuple(other for other in named.axes if other != axis)
        if named.axes[0] == axis:
            return self.emitter.listed(named.code, axis, rest)
        sequence = f"{named.code}.unbind({named.axes.index(axis)})"
        element = self.emitter.element(f"{named.code}_{axis}", sequence)
        return Listed(axis, Dense(element, rest), ((element, sequence),))

    def lift(self, function: Callable[..., Dense], *values: Value) -> Value:
        """Apply a function of dense values; over lists, to each element."""
        lists = {value.axis for value in values if isinstance(value, Listed)}
        apart = {value.axis for value in values if isinstance(value, Listed) and self.emitter.differs(value)}
        if apart:
            return self.each(apart.pop(), function, *values)
        busy = [axis for value in values if isinstance(value, Dense) for axis in value.axes if axis in self.program.modality_axes]
        if not lists:
            return function(*values)
        if len(lists) > 1 or set(busy) - lists:
            return function(*(self.dense(value) if isinstance(value, Listed) else value for value in values))
        return self.each(lists.pop(), function, *values)

    def each(self, axis: str, function: Callable[..., Dense], *values: Value) -> Listed:
        """Apply a function of dense values to each element along ``axis``."""
        elements: list[Dense | Scalar] = []
        sources: dict[str, str] = {}
        for value in values:
            if isinstance(value, Listed) and value.axis != axis:
                value = self.dense(value)
            if isinstance(value, Dense) and axis in value.axes:
                value = self.as_list(value, axis)
            if isinstance(value, Listed):
                sources.update(value.sources)
                elements.append(value.element)
            else:
                noun = "joined" if any(other.startswith("(") for other in value.axes) else "shared"
                elements.append(value if isinstance(value, Scalar) else self.emitter.name_for(value, noun))  # type: ignore[arg-type]
        return self.emitter.with_widths(Listed(axis, function(*elements), tuple(sources.items())))

    def shortened(self, node: Node, value: Value) -> Value:
        """A dense operand that is too long to read inside another expression, as a variable."""
        if isinstance(value, Dense) and len(value.code) > LONGEST_OPERAND:
            return self.emitter.name_for(value, NOUNS.get(node.op, node.op))
        return value

    # Pointwise work and reductions

    def pointwise(self, node: Node, joined: Sequence[str] = (), apart: str | None = None) -> Value:
        """Pointwise work; lists along axes of ``joined`` are stacked before it, tensors are taken ``apart`` along an axis."""
        operator = OPERATORS[node.op]
        values = [memory.operand(self, node, arg) for arg in node.args]
        values = [self.as_list(x, apart) if isinstance(x, Dense) and apart in x.axes else x for x in values]
        stacks = [isinstance(x, Listed) and x.axis in joined and not self.emitter.differs(x) for x in values]
        values = [self.dense(x) if stacked and isinstance(x, Listed) else x for x, stacked in zip(values, stacks, strict=True)]
        if all(isinstance(value, Scalar) for value in values):
            return Scalar(operator.scalar.format(*values))
        if node.op in ("maximum", "minimum"):
            values = [self.tensor(value) for value in values]
        if node.op == "where":
            if isinstance(values[0], Scalar):
                values[0] = Dense(f"torch.tensor({values[0].code})", ())
            if all(isinstance(value, Scalar) for value in values[1:]):
                values[1] = self.tensor(values[1])

        def combine(*operands: Dense | Scalar) -> Dense:
            axes = self.result_axes([operand for operand in operands if isinstance(operand, Dense)])
            in_its_memory = memory.in_temporary(self, node, operands, axes)
            if in_its_memory is not None:
                return in_its_memory
            aligned = [x.aligned(axes) if isinstance(x, Dense) else x for x in operands]
            codes = self.operands(operator.torch, operator.precedence, aligned, bool(operator.symbol))
            made = Dense(operator.torch.format(*codes), axes, operator.precedence)
            return memory.temporary(self, node, made)

        return memory.written(self, node, self.lift(combine, *values), values)

    def operands(self, template: str, precedence: int, values: Sequence[Value], infix: bool) -> list[str]:
        """The codes of operands, in parentheses where the operator binds more tightly."""
        codes = []
        for position, value in enumerate(values):
            assert not isinstance(value, Listed)
            tight = precedence + (1 if position > 0 and infix and precedence < 9 else 0)
            if template.count("**"):
                tight = 10
            codes.append(parenthesised(value, tight) if infix else value.code)
        return codes

    def result_axes(self, values: Sequence[Dense]) -> tuple[str, ...]:
        """The order of dimensions of a pointwise result: that of an operand that has them all, or one in which none is
        transposed, or the canonical one."""
        union = set().union(*(value.axes for value in values))
        whole = next((value.axes for value in values if len(value.axes) == len(union)), None)
        if whole is not None:
            return whole
        after: dict[str, set[str]] = {axis: set() for axis in union}
        for value in values:
            for first, second in itertools.pairwise(value.axes):
                after[second].add(first)
        axes: list[str] = []
        while len(axes) < len(union):
            free = {axis for axis, before in after.items() if axis not in axes and before <= set(axes)}
            if not free:
                return self.sorted(union)
            axes.append(self.sorted(free)[0])
        return tuple(axes)

    def over_axes(self, node: Node) -> Value:
        """A reduction other than a sum, or a normalisation."""
        operand = node.args[0]
        is_selection = operand.op == "where" and self.uses[operand] == 1 and operand not in self.definitions
        is_stacked = is_selection and node.op != "mean"
        value = self.pointwise(operand, node.over) if is_stacked else self.lower(operand)
        if node.op == "mean" and isinstance(value, Listed) and value.axis in node.over and not self.emitter.differs(value):
            return self.mean_of_list(value, [axis for axis in node.over if axis != value.axis])
        if node.op == "prod" and isinstance(value, Listed) and node.over == (value.axis,):
            return Dense(f"multiply_all({value.generator})", value.element.axes)
        if isinstance(value, Listed) and value.axis in node.over:
            if self.emitter.differs(value):
                return over_joined(self, node, value)
            value = self.dense(value)
        if node.op == "layernorm":
            return self.lift(lambda x: self.layer_norm(node, x), value)
        written_over = memory.softmax(self, node, value)
        if written_over is not None:
            return written_over
        return self.lift(lambda x: self.dense_over_axes(node.op, x, node.over), value)

    def mean_of_list(self, value: Listed, rest: Sequence[str]) -> Dense:
        """A mean over the axis of a list, and ``rest``."""
        element = self.dense_over_axes("mean", value.element, rest) if rest else value.element
        total = Listed(value.axis, element, value.sources).generator
        return Dense(f"sum_all({total}) / {self.emitter.extent_code(value.axis)}", element.axes, 7)

    def dense_over_axes(self, op: str, value: Dense, over: Sequence[str]) -> Dense:
        """A reduction or normalisation of one tensor by a method of torch."""
        operator = OPERATORS[op]
        rest = tuple(axis for axis in value.axes if axis not in over)
        if op == "product_of_others":
            return Dense(f"others({value.code}, {tuple(value.axes.index(axis) for axis in over)})", value.axes)
        if len(over) == 1:
            code = operator.torch.format(value.atom, dim=value.dim(over[0]))
            return Dense(code, value.axes if operator.kind == "normalisation" else rest)
        if op in ("softmax", "prod"):
            over = [axis for axis in value.axes if axis in over]
            joined = value.ordered((*rest, *over))
            code = operator.torch.format(f"{joined.atom}.flatten({-len(over)})", dim=-1)
            if operator.kind == "normalisation":
                return Dense(f"{code}.unflatten(-1, {self.sizes(over)})", (*rest, *over))
            return Dense(code, rest)
        return self.reduced_apart(op, value, over) or self.reduced(op, value, over)

    def reduced(self, op: str, value: Dense, over: Collection[str]) -> Dense:
        """A reduction by one call of a method."""
        dims = tuple(position for position, axis in enumerate(value.axes) if axis in over)
        rest = tuple(axis for axis in value.axes if axis not in over)
        dim = dims if len(dims) > 1 else Dense("", value.axes).dim(value.axes[dims[0]])
        return Dense(OPERATORS[op].torch.format(value.atom, dim=dim), rest)

    def reduced_apart(self, op: str, value: Dense, over: Sequence[str]) -> Dense | None:
        """A reduction over dimensions with others between them, which torch does entry by entry: one run after the other.

        Equal largest numbers share the gradient, wherever they are: for those the dimensions are put side by side.
        """
        runs = [list(run) for is_over, run in itertools.groupby(value.axes, lambda axis: axis in over) if is_over]
        if len(runs) == 1 or len(value.axes) < LEAST_APART:
            return None
        if op not in ("max", "min"):
            return functools.reduce(lambda part, run: self.reduced(op, part, run), reversed(runs), value)
        place = value.axes.index(runs[-1][0])
        before = [axis for axis in value.axes[:place] if axis not in over]
        together = [axis for run in runs for axis in run]
        after = value.axes[place + len(runs[-1]) :]
        code = f"{value.ordered((*before, *together, *after)).atom}.flatten({len(before)}, {len(before) + len(together) - 1})"
        return self.reduced(op, Dense(code, (*before, composed(together), *after)), [composed(together)])

    def layer_norm(self, node: Node, value: Dense, scale: str = "", shift: str = "") -> Dense:
        """``F.layer_norm`` over trailing dimensions, with an elementwise scale and shift if given."""
        rest = tuple(axis for axis in value.axes if axis not in node.over)
        over = tuple(axis for axis in value.axes if axis in node.over)
        ordered = value.ordered((*rest, *over))
        shape = self.sizes(over) + (f", {scale}, {shift}" if scale else "")
        options = {name: number_code(number) for name, number in node.data}
        return Dense(OPERATORS["layernorm"].torch.format(ordered.code, shape=shape, **options), (*rest, *over))


def number_code(value: float) -> str:
    """A number as Python writes it; whole ones without a fraction."""
    if math.isinf(value):
        return "math.inf" if value > 0 else "-math.inf"
    is_whole = value == int(value) and abs(value) < 1e15
    return str(int(value)) if is_whole and (value or math.copysign(1, value) > 0) else repr(value)


def _piece_shown(definition: Definition, position: int) -> str:
    """What a spec writes of one piece of a definition: a statement of its own, or the one for all."""
    axes = [str(position) if axis in definition.node.over else axis for axis in definition.axes]
    piece, statements = f"{definition.name}[{','.join(axes)}]", definition.source.splitlines()
    own = (statement for statement in statements if statement.partition("=")[0].replace(" ", "") == piece)
    return next(own, f"{piece} of {statements[0]}")
