"""Where the features of all modalities are one tensor, and in which order of dimensions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Node, Program
from sparank_gen.ir.parts import factors_of
from sparank_gen.ir.sizes import elements
from sparank_gen.ir.views import FEATURES
from sparank_gen.lang.ops import OPERATORS
from sparank_gen.plan.schedule import LISTED

# So many products make a matrix for each row that is better multiplied by the library than entry by entry.
LEAST_PRODUCTS = 1024
Sizes = Mapping[str, int | float]


def stacked_dim(program: Program, per_modality: Mapping[str, bool], usual: Sizes) -> int | None:
    """The dimension along which the features are better stacked at the start; None where they stay a list.

    They are stacked where several modality axes meet (tokens attending to tokens), or where an operator over a modality
    axis reads them through work that is the same for every modality. Otherwise they stay a list, and are never copied.
    Modalities stand first, where each is one piece of memory, unless the library multiplies matrices of each row in which
    they are one dimension with others, as tokens of all modalities are: those would have to be copied.

    Args:
        program: a simplified program.
        per_modality: for each parameter tensor, whether there is one for each modality.
        usual: the sizes of a usual layer.
    """
    modality = program.modality_axes

    def is_own_product(node: Node) -> bool:
        """Whether ``node`` is one matrix product for each modality, whatever else it sums over."""
        return node.op == "sum" and any(f.op == "leaf" and per_modality.get(f.data[0], False) for f in factors_of(node.args[0]))

    def reads_features(node: Node) -> bool:
        """Whether stacking ``node`` is best done by stacking the features below it."""
        if not node.axes & modality or is_own_product(node):
            return False
        if node.op == "leaf":
            return bool(node.data[0] == FEATURES)
        return any(reading[arg] for arg in node.args)

    nodes = list(ir.reachable(program[name].node for name in program.outputs))
    reading: dict[Node, bool] = {}
    for node in nodes:
        reading[node] = reads_features(node)
    own_products = {node.args[0] for node in nodes if is_own_product(node)}

    def needs_all(node: Node) -> bool:
        operator = OPERATORS.get(node.op)
        over_modalities = set(node.over) & modality and operator is not None and node.op not in LISTED
        meets = len(node.axes & modality) > 1 and node.op not in ("leaf", "rename") and node not in own_products
        return bool(over_modalities or meets) and any(reading[arg] for arg in node.args)

    if not any(needs_all(node) for node in nodes):
        return None
    return int(any(reading[factor] for node in nodes for factor in _with_joined_modalities(program, node, usual)))


def _with_joined_modalities(program: Program, node: Node, usual: Sizes) -> Iterator[Node]:
    """The factors of a product of matrices of each row in which modalities and something else are one dimension."""
    factors = factors_of(node.args[0]) if node.op == "sum" else []
    if len(factors) != 2 or not has_matrices(program, factors[0].axes, factors[1].axes, node.over, usual):
        return
    shared = factors[0].axes & factors[1].axes
    if shared - set(node.over) != {BATCH}:
        return
    for factor in factors:
        if any(len(dimension) > 1 and dimension & program.modality_axes for dimension in (factor.axes - shared, set(node.over))):
            yield factor


def has_matrices(
    program: Program, left: frozenset[str], right: frozenset[str], over: Collection[str], usual: Sizes | None
) -> bool:
    """Whether each row of two factors has matrices, or a matrix and a vector, large enough for the library to multiply.

    Args:
        program: the program that the axes are of.
        left: the axes of one factor.
        right: those of the other.
        over: the axes that are contracted.
        usual: the sizes of a usual layer; None where every size is.
    """
    if BATCH not in left & right or BATCH in over or not set(over) <= left & right:
        return False
    modality = program.modality_axes
    is_outer = not left - right <= modality and not right - left <= modality
    is_of_vectors = left < right or right < left or (not left ^ right <= modality and not set(over) <= modality)
    if usual is None or not (is_outer or is_of_vectors):
        return is_outer
    return elements((left ^ right) | set(over), program).number_for(usual) >= LEAST_PRODUCTS
