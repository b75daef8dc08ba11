"""Rewriting a program by rules: the engine, and patterns written in the language itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from sparank_gen.ir import node as ir
from sparank_gen.ir.lower import PAIRWISE
from sparank_gen.ir.node import Node, Program
from sparank_gen.ir.template import instantiate, parsed
from sparank_gen.lang.syntax import Expression, Number, Reference

Rule = Callable[[Node], Node | None]
COMMUTATIVE = frozenset({"add", "mul"})


def rewrite(program: Program, rules: Sequence[Rule]) -> Program:
    """``program`` with the rules applied, operands first, until none applies."""
    done: dict[Node, Node] = {}

    better: dict[Node, Node] = {}

    def settle(root: Node) -> Node:
        pending = [root]
        while pending:
            node = pending[-1]
            below = [better[node]] if node in better else [arg for arg in node.args if arg not in done]
            if node in done:
                pending.pop()
            elif node in better and better[node] in done:
                done[node] = done[better[node]]
            elif below:
                pending.extend(reversed(below))
            else:
                improve(node, ir.rebuild(node, [done[arg] for arg in node.args]))
        return done[root]

    def improve(node: Node, rebuilt: Node) -> None:
        found = (rule(rebuilt) for rule in rules)
        improved = next((other for other in found if other is not None and other is not rebuilt), None)
        if improved is None:
            done[node] = rebuilt
        else:
            better[node] = improved

    definitions = tuple(replace(definition, node=settle(definition.node)) for definition in program.definitions)
    return replace(program, definitions=definitions)


def pattern_rule(pattern: str, replacement: str, tensors_only: bool = False) -> Rule:
    """A rule that turns what matches ``pattern`` into ``replacement``; single letters stand for any node.

    Args:
        pattern: an expression; sums and products match in either order.
        replacement: an expression over the same letters.
        tensors_only: whether letters stand for tensors alone, and not for plain numbers.
    """
    source = parsed(pattern)

    def rule(node: Node) -> Node | None:
        for names in _matches(source, node, {}):
            if not tensors_only or all(map(is_tensor, names.values())):
                return instantiate(replacement, names, {})
        return None

    return rule


def is_tensor(node: Node) -> bool:
    """Whether a node depends on a tensor, and is no plain number."""
    return any(inner.op == "leaf" for inner in ir.reachable([node]))


def _matches(pattern: Expression, node: Node, names: Mapping[str, Node]) -> Iterator[Mapping[str, Node]]:
    if isinstance(pattern, Number):
        if node.op == "constant" and node.data == pattern.value:
            yield names
    elif isinstance(pattern, Reference):
        if names.get(pattern.name, node) is node:
            yield {**names, pattern.name: node}
    elif node.op == PAIRWISE.get(pattern.function, pattern.function) and len(node.args) == len(pattern.arguments):
        orders = [node.args]
        if node.op in COMMUTATIVE:
            orders.append(node.args[::-1])
        for order in orders:
            yield from _match_all(pattern.arguments, order, names)


def _match_all(
    patterns: Sequence[Expression], nodes: Sequence[Node], names: Mapping[str, Node]
) -> Iterator[Mapping[str, Node]]:
    if not patterns:
        yield names
        return
    for extended in _matches(patterns[0], nodes[0], names):
        yield from _match_all(patterns[1:], nodes[1:], extended)
