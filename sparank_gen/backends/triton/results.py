"""What kernels read and return: results with definitions of their own, and how all tensors lie in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sparank_gen.backends.triton.names import result_variables
from sparank_gen.backends.triton.scope import Storage
from sparank_gen.ir.derive import ADJOINT
from sparank_gen.ir.mode import Mode
from sparank_gen.ir.node import BATCH, Definition, Program
from sparank_gen.ir.prepare import prepared
from sparank_gen.ir.views import FEATURES, feature_leaf
from sparank_gen.lang.layouts import Layout

HAS_EXTRAS = "HAS_EXTRAS"


@dataclass(frozen=True)
class Result:
    """A result as kernels compute it.

    Attributes:
        variable: the variable that holds it where kernels are launched.
        definition: what it is; no other result has the same.
        layout: how it lies in memory.
        condition: the constant that says whether it is asked for; empty for the output.
    """

    variable: str
    definition: Definition
    layout: Layout
    condition: str

    @property
    def slots(self) -> tuple[str, ...]:
        return (BATCH, *self.definition.axes)

    @property
    def order(self) -> tuple[int, ...]:
        return tuple(self.slots.index(axis) for axis in self.layout.axes)


def with_results(mode: Mode, symbols: Mapping[str, str]) -> tuple[Program, tuple[Result, ...]]:
    """The program with a definition of its own for everything that it returns, the features themselves included."""
    program = prepared(mode)
    results: list[Result] = []
    taken = {*program.tensors, *(definition.name for definition in program.definitions)}
    for variable, result in zip(result_variables(mode, symbols), mode.results, strict=True):
        layout, known = result.layout, {earlier.definition.name for earlier in results}
        if layout.name == FEATURES or layout.name in known:
            name = variable if variable not in taken else f"{variable}_result"
            definition = replace(_laid_out(program, layout), name=name)
            program = replace(program, definitions=(*program.definitions, definition))
        else:
            definition = program[layout.name]
        results.append(Result(variable, definition, layout, HAS_EXTRAS if results else ""))
    return replace(program, outputs=tuple(result.definition.name for result in results)), tuple(results)


def _laid_out(program: Program, layout: Layout) -> Definition:
    """What a layout lays out."""
    if layout.name != FEATURES:
        return program[layout.name]
    leaf = feature_leaf(layout.axes, program.tensors[FEATURES].slots, program.extents)
    return Definition(FEATURES, leaf.data[1][1:], leaf)


def storages_of(mode: Mode, results: Sequence[Result]) -> dict[str, Storage]:
    """How the features, the parameters, and the results and their cotangents lie in memory."""
    feature = mode.slots[FEATURES]
    found = {FEATURES: Storage(FEATURES, feature, but_listed(feature), listed=1, strided=True)}
    for module in mode.modules:
        for parameter in module.parameters:
            axes = parameter.layout.axes
            listed = axes.index(module.per) if module.per is not None else None
            order = tuple(position for position in range(len(axes)) if position != listed)
            found[parameter.layout.name] = Storage(parameter.layout.name, axes, order, listed)
    for result in results:
        cotangent = result.definition.name + ADJOINT
        found[cotangent] = Storage(cotangent, result.slots, result.order)
    return found


def but_listed(slots: Sequence[str]) -> tuple[int, ...]:
    """The memory order of features: rows, and what is taken apart in them; the list of modalities stands at 1."""
    return (0, *range(2, len(slots)))
