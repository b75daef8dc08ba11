"""The schedules of a pass: one kernel, kernels that own a tile of columns, and kernels around the library's products."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sparank_gen.backends.torch.lower import Lowering
from sparank_gen.backends.torch.values import Listed, Scalar
from sparank_gen.backends.triton.kernel import Store
from sparank_gen.backends.triton.names import host_emitter
from sparank_gen.backends.triton.printed import Columns, Pass, buffer_store, printed
from sparank_gen.backends.triton.scope import Storage
from sparank_gen.backends.triton.steps import Product, Schedules, Step
from sparank_gen.ir import node as ir
from sparank_gen.ir.node import BATCH, Definition, Node
from sparank_gen.ir.sizes import elements
from sparank_gen.lang.extents import Extent
from sparank_gen.lang.widths import owner_of
from sparank_gen.plan.cost import operations_per_row
from sparank_gen.plan.pieces import Buffer, made_buffer
from sparank_gen.plan.stages import (
    Split,
    Stage,
    column_extent,
    contraction_of,
    leaf_names,
    products_read,
    split_at_contractions,
    with_leaves,
)

# One in how many registers rows may fill where weights crowd them: what it takes for compiled kernels to spill nothing.
CROWDED = 3


@dataclass(frozen=True)
class Before:
    """The forward pass, to a backward one that may be handed its products.

    Attributes:
        made, split: the pass, and where it is split at its products.
        steps: its steps then.
    """

    made: Pass
    split: Split
    steps: tuple[Step, ...]


def split_of(made: Pass, stores: Sequence[Store], buffers: Sequence[Buffer] = (), named: int = 0) -> Split:
    """A pass split at its matrix products, of which ``named`` have names already."""
    in_memory = {buffer.node: buffer for buffer in buffers if not buffer.partial}
    return split_at_contractions(made.program, [store.node for store in stores], in_memory, made.is_unrolled, named)


def schedules(made: Pass, stores: Sequence[Store], buffers: Sequence[Buffer], before: Before | None = None) -> Schedules:
    """All schedules of a pass.

    Args:
        made: the pass.
        stores: what it computes.
        buffers: those results that are handed over to torch.
        before: the pass that came before it.
    """
    made = made.holding(buffers)
    written = {buffer.name: buffer for buffer in buffers}
    split = split_of(made, stores, buffers)
    has_products = len(split.stages) > 1
    resident = Step(_allocated(made, stores, written), printed(made, "kernel", stores, walks=has_products))
    if not has_products:
        return Schedules(resident)
    found = _around_products(Schedules(resident), made, stores, buffers, before)
    made = replace(made, program=split.program)
    stores = _over_products(stores, split)
    tiled = _columns(made, split, stores)
    if not any(tiled):
        return found
    inside = [stage for stage, columns in zip(split.stages, tiled[1:], strict=False) if columns]
    products = [definition for stage in inside for definition in stage.products]
    kept = {definition.name for columns in tiled if columns for definition in columns.kept}
    saved = Extent.number(0)
    for definition in products:
        ways_spared = Extent.number(1 if definition.name in kept else 2)
        saved = saved + elements(definition.node.axes, made.program) * ways_spared
        saved = saved + _joined(definition.node, made) * Extent.number(2)
    steps = _told_apart(_steps(made, split, stores, written, tiled), found.split, "after_columns")
    return replace(found, columns=steps, operations=_operations(products, made), numbers=saved.code(made.symbols))


def _joined(node: Node, made: Pass) -> Extent:
    """How many numbers of a row stand one after another for the library to multiply with, as they do not in kernels."""
    contraction = contraction_of(node, made.is_unrolled)
    is_joined = contraction is not None and bool(made.program.modality_axes & set(node.over))
    return elements(contraction.operand.axes, made.program) if contraction and is_joined else Extent.number(0)


def _around_products(
    found: Schedules, made: Pass, stores: Sequence[Store], buffers: Sequence[Buffer], before: Before | None
) -> Schedules:
    """``found``, with the schedule that is split: over the products of the pass before it, if there is one."""
    named = 0
    if before is not None:
        named = len(before.split.origins)
        products = {d.name: d for stage in before.split.stages for d in stage.products}
        leaves = {node: ir.leaf(name, products[name].axes) for name, node in before.split.origins.items()}
        done = with_leaves([*(d.node for d in made.program.definitions), *(store.node for store in stores)], leaves)
        made = replace(made, program=made.program.mapped(done))
        stores = [replace(store, node=done[store.node]) for store in stores]
        buffers = [replace(buffer, node=done[buffer.node]) for buffer in buffers]
        read = leaf_names(store.node for store in stores) & set(products)
        alone = before.split.alone(read)
        forward = replace(before.made, program=alone.program)
        again = _told_apart(_steps(forward, alone, (), {}, [None] * len(alone.stages)), before.steps, "again")
        kept = tuple(product for step in again for product in step.products if product.name in read)
        work = _operations([definition for stage in alone.stages for definition in stage.products], made)
        found = replace(found, again=again, kept=kept, operations_again=work)
        made = made.reading({product.storage: product.name for product in kept})
    split = split_of(made, stores, buffers, named)
    made, stores = replace(made, program=split.program), _over_products(stores, split)
    written = {buffer.name: buffer for buffer in buffers}
    steps = tuple(_steps(made, split, stores, written, [None] * len(split.stages)))
    return replace(found, split=steps, share=CROWDED if _is_crowded(split, made, before is not None) else 1)


def _is_crowded(split: Split, made: Pass, is_backward: bool) -> bool:
    """Whether compiled kernels hold many weights at once: those of each pair of modalities, or, backward, of a sum over several axes."""
    products = [definition.node for stage in split.stages for definition in stage.products]
    for node in products:
        contraction = contraction_of(node, made.is_unrolled)
        unrolled = [axis for axis in contraction.weight.axes if made.is_unrolled(axis)] if contraction is not None else []
        if len(unrolled) > 1 or is_backward and len(node.over) > 1:
            return True
    return False


def _over_products(stores: Sequence[Store], split: Split) -> list[Store]:
    """``stores`` of what the products and operands of a split give."""
    return [replace(store, node=node) for store, node in zip(stores, split.results, strict=True)]


def _operations(products: Iterable[Definition], made: Pass) -> str:
    """The floating-point operations of ``products`` for one row."""
    return operations_per_row([definition.node for definition in products], made.program).code(made.symbols)


def _columns(made: Pass, split: Split, stores: Sequence[Store]) -> list[Columns | None]:
    """For the kernel of each stage, how it computes the products of the stage before, if it can."""
    found: list[Columns | None] = [None]
    for number in range(1, len(split.stages)):
        products = split.stages[number - 1].products
        later = [node for stage in split.stages[number:] for node in (d.node for d in stage.products)]
        later += [node for stage in split.stages[number + 1 :] for node in _written(stage, stores)]
        kept = tuple(products_read(later, products))
        extent = column_extent(_written(split.stages[number], stores), products, made.program, made.is_unrolled)
        found.append(Columns(extent, products, kept) if extent is not None else None)
    return found


def _written(stage: Stage, stores: Sequence[Store]) -> list[Node]:
    """What the kernel of a stage computes."""
    return [*(buffer.node for buffer in stage.operands), *(stores[position].node for position in stage.results)]


def _steps(
    made: Pass,
    split: Split,
    stores: Sequence[Store],
    written: Mapping[str, Buffer],
    tiled: Sequence[Columns | None],
) -> Iterable[Step]:
    """A step for each stage; a stage's products are computed by the library, or by the kernel that follows."""
    products = [definition for stage in split.stages for definition in stage.products]
    emitter = host_emitter(made.mode, made.symbols)
    lowering = Lowering(replace(made.program, definitions=tuple(products)), made.mode.modules, emitter, None)
    lowering.count_uses([definition.node for definition in products])
    for number, (stage, columns) in enumerate(zip(split.stages, tiled, strict=True)):
        own = [buffer_store(buffer) for buffer in stage.operands] + [stores[position] for position in stage.results]
        new = {buffer.name: buffer for buffer in stage.operands}
        if columns is not None:
            held = [made_buffer(d.name, d.axes, ir.leaf(d.name, d.axes), False, made.program) for d in columns.products]
            kept = [buffer for buffer, product in zip(held, columns.products, strict=True) if product in columns.kept]
            own = [*(buffer_store(buffer) for buffer in kept), *own]
            new |= {buffer.name: buffer for buffer in kept}
            made = made.holding(held)
        made = made.holding(stage.operands)
        suffix = "epilogue" if number + 1 == len(split.stages) else f"operands_{number + 1}"
        kernel = printed(made, suffix, own, columns) if own else None
        start = len(emitter.lines)
        following = tiled[number + 1] if number + 1 < len(tiled) else None
        by_library = stage.products if following is None else ()
        found = tuple(_product(lowering, definition, made) for definition in by_library)
        if found:
            made = made.reading({product.storage: product.code for product in found})
        if kernel is not None or found:
            yield Step(_allocated(made, own, {**written, **new}), kernel, tuple(emitter.lines[start:]), found)


def _told_apart(steps: Iterable[Step], others: Iterable[Step], suffix: str) -> tuple[Step, ...]:
    """``steps``, where a kernel has a name of its own if the kernel of its name among ``others`` is not the same."""
    taken = {step.kernel.name: step.kernel for step in others if step.kernel is not None}
    found = []
    for step in steps:
        if step.kernel is not None and taken.get(step.kernel.name, step.kernel) != step.kernel:
            step = replace(step, kernel=replace(step.kernel, name=f"{step.kernel.name}_{suffix}"))
        found.append(step)
    return tuple(found)


def _allocated(made: Pass, stores: Iterable[Store], buffers: Mapping[str, Buffer]) -> tuple[tuple[str, str, str, bool], ...]:
    """The buffers that a kernel writes."""
    own = [buffers[store.storage.name] for store in stores if store.storage.name in buffers]
    return tuple((b.name, *_buffer_shape(b, made), b.partial) for b in own)


def _buffer_shape(buffer: Buffer, made: Pass) -> tuple[str, str]:
    """The shape of a buffer, and of a list of them the loop that makes one for each modality."""
    axes = [axis for axis in buffer.axes if axis != buffer.listed]
    loop = made.loop_over(buffer.listed) if buffer.listed is not None else ""
    return made.shape(axes, "tile.programs(batch)" if buffer.partial else "batch"), loop


def _product(lowering: Lowering, definition: Definition, made: Pass) -> Product:
    """A matrix product that the library computes, after its statement."""
    value = lowering.lower(definition.node)
    assert not isinstance(value, Scalar)
    slots, listed = definition.axes, value.axis if isinstance(value, Listed) else None
    element = value.element if isinstance(value, Listed) else value
    # Not the product's own name where it is what another variable holds.
    code = value.sequence if isinstance(value, Listed) else value.code
    order = tuple(slots.index(axis) for axis in element.axes)
    # What einsum returns, or what has more dimensions than a matrix, may be a view in another order than it stands.
    is_plain = len(order) <= 2 and "torch.einsum(" not in "".join(lowering.emitter.lines[-1:])
    if not is_plain:
        code = f"{code}.contiguous()" if listed is None else f"x.contiguous() for x in {code}"
    if listed is None:
        return Product(Storage(definition.name, slots, order), code, made.shape(element.axes))
    extents = made.program.extents
    is_wide = any(owner_of(extents[axis]) == listed for axis in element.axes if axis != BATCH)
    loop = made.loop_over(listed) if is_wide else f"for _ in range({extents[listed].code(made.symbols)})"
    storage = Storage(definition.name, slots, order, listed=slots.index(listed))
    return Product(storage, code, made.shape(element.axes), loop, extents[listed])
