"""Normalisations and compound reductions written out as simple reductions, for code that has no primitive for them."""

from __future__ import annotations

from sparank_gen.ir import node as ir
from sparank_gen.ir.node import Node, Program
from sparank_gen.ir.rewrite import rewrite
from sparank_gen.ir.simplify import IDENTITIES, fold_constants, merge_views
from sparank_gen.ir.template import instantiate
from sparank_gen.lang.ops import OPERATORS


def expand(program: Program) -> Program:
    """``program`` with every operator that has an expansion replaced by it."""

    def expansion(node: Node) -> Node | None:
        source = OPERATORS[node.op].expansion if node.op in OPERATORS else ""
        if not source:
            return None
        names = {"a": node.args[0]} | {name: ir.constant(value) for name, value in node.data or ()}
        return instantiate(source, names, program.extents, node.over)

    return rewrite(program, (expansion, fold_constants, *IDENTITIES, merge_views(program.extents)))
