"""Generated kernels compiled ahead of time for a chip that need not be there, and what each needs of it."""

from __future__ import annotations

import importlib
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """A chip: Triton's name of it, and the rates that bound a kernel's time.

    Attributes:
        backend, arch, lanes: the arguments of triton's ``GPUTarget``.
        processors: how many multiprocessors it has.
        shared: bytes of shared memory that a program may have.
        bandwidth: bytes a second from device memory.
        rates: matrix operations a second, by dtype.
    """

    backend: str
    arch: int | str
    lanes: int
    processors: int
    shared: int
    bandwidth: float
    rates: Mapping[str, float]


# Peak figures of the vendors' data sheets: A100 SXM 80 GB, H100 SXM, B200, MI300X; dense, without sparsity. Shared memory
# is what one program may ask for, by the vendors' tables of what each architecture has.
TARGETS = {
    "sm_80": Target("cuda", 80, 32, 108, 163 * 1024, 2.04e12, {"float16": 312e12, "bfloat16": 312e12, "float32": 19.5e12}),
    "sm_90": Target("cuda", 90, 32, 132, 227 * 1024, 3.35e12, {"float16": 989e12, "bfloat16": 989e12, "float32": 67e12}),
    "sm_100": Target("cuda", 100, 32, 148, 227 * 1024, 8.0e12, {"float16": 2250e12, "bfloat16": 2250e12, "float32": 80e12}),
    "gfx942": Target("hip", "gfx942", 64, 304, 64 * 1024, 5.3e12, {"float16": 1307e12, "bfloat16": 1307e12, "float32": 163e12}),
}
POINTERS = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32", "float64": "*fp64"}


@dataclass(frozen=True)
class Compiled:
    """What a compiled kernel needs.

    Attributes:
        name: the kernel.
        rows: the rows a program owns.
        warps: its warps.
        registers: registers of a thread.
        spilled: bytes of a thread's stack.
        shared: bytes of shared memory of a program.
    """

    name: str
    rows: int
    warps: int
    registers: int
    spilled: int
    shared: int


class CompilationFailed(Exception):
    """A kernel that does not compile for a chip: which one, and the compiler's reason."""


def launches(
    package: str, mode: str, dim: int, n_modalities: int, dtype: str, batch: int = 4096, target: Target | None = None, **options: Any
) -> Any:
    """The launches of a forward and a backward pass, and the choices behind them, noted and not run.

    Tiles are those that a call tries first, on ``target`` if it is given; ``options`` are more of ``recording``'s.
    """
    import torch

    kernels = importlib.import_module(f"{package}.kernels")
    if target is not None:
        options |= {"backend": target.backend, "chip": kernels.Chip(target.processors, target.shared)}
    # The library's products take no time there, and what lies between kernels no memory.
    like: dict[str, Any] = {"dtype": getattr(torch, dtype), "device": "meta"}
    layer = importlib.import_module(package).FusionLayer(dim, n_modalities, mode).to(**like)
    features = [torch.empty(batch, dim, requires_grad=True, **like) for _ in range(n_modalities)]
    with kernels.recording(**options) as found, _operators_run(package):
        results = layer._fuse_kernels(features, bool(layer.extras))
        torch.autograd.backward(results, [torch.empty_like(result) for result in results])
    return found


def compiled(
    package: str, mode: str, dim: int, n_modalities: int, dtype: str, target: Target, batch: int = 4096
) -> tuple[Any, tuple[Compiled, ...]]:
    """The same with the tiles that a call on ``target`` comes to, and what each launch's kernel is compiled to.

    Raises:
        CompilationFailed: where the compiler refuses a kernel with every tile.
    """
    made: dict[int, Compiled] = {}
    refused: set[tuple[str, int, int]] = set()

    def spilled(launch: Any) -> float:
        key = launch.kernel.__name__, launch.constants["ROWS"], launch.warps
        try:
            found = made[id(launch)] = compile_launch(launch, target)
        except CompilationFailed:
            # Where no tile compiles, one comes a second time.
            if key in refused:
                raise
            refused.add(key)
            return math.inf
        return found.spilled if found.shared <= target.shared else math.inf

    found = launches(package, mode, dim, n_modalities, dtype, batch, target, spilled=spilled)
    return found, tuple(made[id(launch)] for launch in found.launches)


def _operators_run(package: str) -> Any:
    """Inside, the operators of a package run on tensors without storage, of which torch would only say what shapes results have."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    class Run(TorchDispatchMode):
        def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
            call = partial(operator.redispatch, cpu) if operator.namespace == package else operator
            return call(*arguments, **(keywords or {}))

    return Run()  # type: ignore[no-untyped-call]


def compile_launch(launch: Any, target: Target) -> Compiled:
    """What one launch's kernel needs on ``target``.

    Raises:
        CompilationFailed: where the compiler refuses.
    """
    made = assembled(launch, target)
    registers, spilled = _resources(made, target)
    return Compiled(launch.kernel.__name__, launch.constants["ROWS"], launch.warps, registers, spilled, made.metadata.shared)


def assembled(launch: Any, target: Target) -> Any:
    """One launch's kernel as Triton compiles it for ``target``, with what its passes leave in ``asm``.

    Raises:
        CompilationFailed: where the compiler refuses.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    names = launch.kernel.arg_names
    for position, (name, value) in enumerate(zip(names, launch.arguments, strict=False)):
        signature[name] = _type_of(value)
        attributes.update(_aligned(value, (position,)))
    for name, value in launch.constants.items():
        signature[name] = "constexpr"
        constants[(names.index(name),)] = value
    source = ASTSource(launch.kernel, signature, constants, attributes)
    gpu = GPUTarget(target.backend, target.arch, target.lanes)
    try:
        with _quiet():
            return triton.compile(source, target=gpu, options={"num_warps": launch.warps})
    except Exception as error:  # the compiler's errors have no class in common
        raise CompilationFailed(f"{launch.kernel.__name__} does not compile: {_reason(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, a compiler that fails does not print the whole of its input."""
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _reason(error: BaseException) -> str:
    """What an error began with."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _type_of(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_type_of(item) for item in value)
    if isinstance(value, int):
        return "i32" if abs(value) < 2**31 else "i64"
    return POINTERS[str(value.dtype).removeprefix("torch.")]


def _aligned(value: Any, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """What a launch tells the compiler of its arguments: pointers and sizes that are multiples of 16."""
    if isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from _aligned(item, (*path, position))
    elif not isinstance(value, int) or value % 16 == 0:
        yield path, [["tt.divisibility", 16]]


def _resources(made: Any, target: Target) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    if target.backend == "hip":
        text = made.asm["amdgcn"]
        found = [re.search(rf"\.{key}:\s+(\d+)", text) for key in ("vgpr_count", "private_segment_fixed_size")]
        return int(found[0][1]) if found[0] else 0, int(found[1][1]) if found[1] else 0
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        text = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+)", text), re.search(r"STACK:(\d+)", text)
    return int(registers[1]) if registers else 0, int(stack[1]) if stack else 0
