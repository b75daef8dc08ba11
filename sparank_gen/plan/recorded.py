"""Whether gradients are better taken by statements of their own, derived from the formula, than by torch's record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.parts import factors_of
from sparank_gen.ir.reuse import THROUGH
from sparank_gen.ir.sizes import elements
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.plan.cost import is_matrix_product
from sparank_gen.plan.schedule import LISTED

ARITHMETIC = frozenset({"add", "sub", "mul", "div", "neg"})
VIEWS = frozenset({"leaf", "constant", "extent", "rename", "select"})
# What statements do as well as torch's record does: other operators have gradients there that take one pass each, or are
# gradients of joins and choices.
PLAIN = ARITHMETIC | VIEWS | THROUGH | {"sum", "lerp"}
# How often less memory statements have to take. Measured for all modes on two cores, with 16,384 rows of 128: where they take
# as much, they are as fast, and at 1.8 times less they take 0.9 of the time.
LEAST_LESS = 1.5
# Operators whose functions in torch can write their result over an operand.
WRITING = frozenset(
    "exp log sqrt rsqrt abs sigmoid tanh erf sin cos maximum minimum clamp_min clamp_max lerp softmax".split()
)
Sizes = Mapping[str, int | float]


def statements_pay(forward: Program, adjoints: Program, kept: Collection[Node], usual: Sizes) -> bool:
    """Whether statements take so much less new memory than what torch records, forward and backward.

    Args:
        forward: a simplified program.
        adjoints: its adjoints, in terms of what ``forward`` computes.
        kept: what of that is kept.
        usual: the sizes of a usual layer.
    """
    roots = [adjoints[name].node for name in adjoints.outputs]
    own = dict.fromkeys(ir.reachable([forward[forward.outputs[0]].node]))
    added = [node for node in ir.reachable(roots) if node not in own]
    uses = Counter(arg for node in (*own, *added) for arg in node.args)
    uses.update(kept)
    if not all(_is_plain(node, uses, forward) for node in added):
        return False
    sizes = {node: _size(node, forward, usual) for node in (*own, *added)}
    statements = [node for node in own if not _writes_over(node, uses, forward)]
    statements += [node for node in added if not _is_in_place(node, uses)]
    parts = _parts_of_sums((*own, *added), uses)
    made = sum(sizes[node] for node in statements if node not in parts and not _is_view(node))
    return _recorded(own, sizes, forward) >= LEAST_LESS * made


def _is_plain(node: Node, uses: Mapping[Node, int], program: Program) -> bool:
    """Whether an operation is one pass, a product of matrices as they lie, or a sum of products over modalities."""
    if node.op != "sum" or BATCH not in node.args[0].axes:
        return node.op in PLAIN
    over, modalities = set(node.over), program.modality_axes
    factors = [node.args[0]] if uses[node.args[0]] > 1 else _factors(node.args[0], uses)
    if over <= modalities:
        return True
    if len(node.args[0].axes & modalities) > 1:
        return False
    if is_matrix_product(node):
        return not over & modalities and len(factors) == 2
    vectors = [factor.axes - modalities - over for factor in factors]
    return over - modalities == {BATCH} and len(factors) <= 2 and all(len(axes) == 1 for axes in vectors)


def _factors(product: Node, uses: Mapping[Node, int]) -> list[Node]:
    """The factors of a product; what has a variable is one."""
    if product.op != "mul":
        return [product]
    return [factor for arg in product.args for factor in ([arg] if uses[arg] > 1 else _factors(arg, uses))]


def _size(node: Node, program: Program, usual: Sizes) -> float:
    """The numbers of a row."""
    return float(elements(node.axes, program).number_for(usual)) if BATCH in node.axes else 0.0


def _parts_of_sums(nodes: Iterable[Node], uses: Mapping[Node, int]) -> set[Node]:
    """Products that are summed as they are made, and matrix products that are added to something."""
    pending = [node.args[0] for node in nodes if node.op == "sum" and node.args[0].op == "mul" and uses[node.args[0]] == 1]
    parts: set[Node] = set()
    while pending:
        product = pending.pop()
        parts.add(product)
        pending += [arg for arg in product.args if arg.op == "mul" and uses[arg] == 1]
    for total in nodes:
        if total.op in ("add", "sub") and all(BATCH in arg.axes for arg in total.args):
            parts.update(arg for arg in _unnamed(total.args) if is_matrix_product(arg) and uses[arg] == 1)
    return parts


def _unnamed(nodes: Iterable[Node]) -> list[Node]:
    """What nodes are called by other names of axes."""
    return [node.args[0] if node.op == "rename" else node for node in nodes]


def _is_view(node: Node) -> bool:
    """Whether a node is no tensor of its own: a view, or a bias that is added to a matrix product."""
    return node.op in VIEWS or node.op == "add" and any(BATCH not in arg.axes for arg in node.args)


def _writes_over(node: Node, uses: Mapping[Node, int], program: Program) -> bool:
    """Whether a result of the forward pass takes the memory of what it is computed from: lists do not."""
    is_tensor = not node.axes & program.modality_axes or bool(set(node.over) & program.modality_axes)
    return node.op in WRITING and is_tensor and uses[node.args[0]] == 1


def _is_in_place(node: Node, uses: Mapping[Node, int]) -> bool:
    """Whether a result of the adjoints takes the memory of an operand."""
    if node.op not in ARITHMETIC:
        return False
    return any(uses[arg] == 1 and arg.axes == node.axes and arg.op not in VIEWS for arg in node.args)


def _recorded(nodes: Collection[Node], sizes: Mapping[Node, float], program: Program) -> float:
    """The numbers of a row that torch puts into new memory, forward and backward, where it records each operation."""
    products = {node.args[0] for node in nodes if node.op == "sum" and is_matrix_product(node)}
    total = 0.0
    for node in nodes:
        if node in products or node.op in VIEWS:
            continue
        is_product = node.op == "sum" and node.args[0] in products
        operands = factors_of(node.args[0]) if is_product else node.args
        gradients = sum(sizes[operand] for operand in operands)
        is_shared = node.op in ("add", "sum", "mean", "stack") and not is_product
        total += sizes[node] * (not _is_view(node)) + gradients * (not is_shared)
        # A list is stacked for what runs over it and is no sum, and the gradients of the pieces of its result once more.
        is_joined = node.op in OPERATORS and node.op not in LISTED and set(node.over) & program.modality_axes
        total += 2 * gradients if is_joined else 0
    return total
