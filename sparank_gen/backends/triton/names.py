"""What the functions that launch kernels call their variables."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sparank_gen.backends.torch.emit import RESERVED, Emitter
from sparank_gen.backends.torch.module import width_symbols
from sparank_gen.backends.triton import scope
from sparank_gen.ir.derive import ADJOINT
from sparank_gen.ir.mode import Mode

# The number of programs in extents, where no hyper-parameter can have its name.
PROGRAMS = "programs()"
SYMBOLS = {"dim": "dim", "modalities": "M", "batch": "batch", PROGRAMS: "programs"}

HOST_NAMES = frozenset(
    """
    dims starts widths Any Tensor acc alignment launch precision multiplied_in product_dtype result_dtype row_tiles column_tiles walking_tiles schedule shaped require_alike unit_stride triton grouped LISTED row_strides
    partial_sums constants numbers ctx inputs output saved tensors found gradients position
    lanes tile tiled batch dim M out weights out_bar weights_bar h_bar return_extras forward backward fuse options chosen
    results cotangents kept keep keeps separate held operator fake differentiated_once
    SCHEDULES Sequence _Fuse _constants _gradients _keeps _outputs _results any arguments bars bool count dict dtype
    next_power_of_2 staticmethod str tl x
    """.split()
)
# How the buffers between kernels are called.
_BUFFER = re.compile(r"^(rows|partial|operand|product)_(\d+_*)$")


def kernel_symbols(mode: Mode) -> dict[str, str]:
    """How the names in extents are written in kernels and in the functions that launch them."""
    known = SYMBOLS | width_symbols(mode, "dims")
    emitter = Emitter(mode.program.extents, known, taken={*RESERVED, *HOST_NAMES, *scope.RESERVED, *known.values()})
    return known | {h.name.value: emitter.unique(_BUFFER.sub(r"\1_of_\2", h.name.value)) for h in mode.spec.hyperparameters}


def prefix_of_its_own(mode: Mode, prefix: str) -> str:
    """``prefix``, or one like it, with which no name of the spec starts."""
    names = {*mode.program.tensors, *mode.program.extents, *(h.name.value for h in mode.spec.hyperparameters)}
    names |= {definition.name for definition in mode.program.definitions} | {result.key for result in mode.results}
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def parameter_variables(mode: Mode, symbols: Mapping[str, str]) -> dict[str, str]:
    """The argument that holds each parameter in the functions that launch kernels."""
    emitter = host_emitter(mode, symbols)
    return {p.layout.name: emitter.unique(p.layout.name) for module in mode.modules for p in module.parameters}


def host_emitter(mode: Mode, symbols: Mapping[str, str]) -> Emitter:
    """An emitter for the functions that launch kernels."""
    results = [name + suffix for name in result_variables(mode, symbols) for suffix in ("", ADJOINT)]
    return Emitter(mode.program.extents, symbols, taken={*RESERVED, *HOST_NAMES, *results, *symbols.values()})


def result_variables(mode: Mode, symbols: Mapping[str, str]) -> tuple[str, ...]:
    """The variable of each result, in the functions that launch kernels and as the label of its pointer in them."""
    parameters = {p.layout.name for module in mode.modules for p in module.parameters}
    taken = parameters | {*RESERVED, *HOST_NAMES, *symbols.values()} - {"out", "weights"}
    taken |= {name.removesuffix(ADJOINT) for name in symbols.values() if name.endswith(ADJOINT)}
    emitter = Emitter(mode.program.extents, {}, taken=taken)
    return tuple(emitter.unique(_BUFFER.sub(r"\1_of_\2", result.key)) for result in mode.results)
