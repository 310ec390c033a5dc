"""Pieces of LLVM's intermediate representation (IR) that the functions for kernels are made of.

A `builder` is llvmlite's `IRBuilder`, a `Value` is what its methods return. The pointers of newer versions of LLVM are
opaque, so every load and every index into an array says the type of its elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from llvmlite import ir

from nncjit.jit.numba_internals import pointer_to

F32, F64 = ir.FloatType(), ir.DoubleType()
I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)

Value: TypeAlias = Any


def pointer(builder: Any, address: Value, element: Any = I8, index: Value | None = None) -> Value:
    """Pointer to an element, or to element `index`, of the array at an address."""
    first = builder.inttoptr(address, pointer_to(element))
    return first if index is None else builder.gep(first, [index], source_etype=element)


def load(builder: Any, address: Value, index: Value, element: Any) -> Value:
    """Element `index` of the array at an address, which need not be aligned."""
    value = builder.load(pointer(builder, address, element, index), typ=element)
    value.align = 1
    return value


def store(builder: Any, address: Value, index: Value, value: Value) -> None:
    """Set element `index` of the array at an address, which need not be aligned."""
    builder.store(value, pointer(builder, address, value.type, index)).align = 1


def gather(builder: Any, address: Value, index: Value, element: Any = F32, unit: Any = None) -> Value:
    """The elements at a vector of indices (int32, not negative), which count elements, or units of another type."""
    lanes = index.type.count
    row, mask = ir.VectorType(element, lanes), ir.VectorType(I1, lanes)
    places = _places(builder, address, index, element, unit or element)
    kind = ir.FunctionType(row, [places.type, I32, mask, row])
    name = f"llvm.masked.gather.v{lanes}{'f' if element == F32 else 'i'}32.v{lanes}p0"
    align, everywhere = ir.Constant(I32, 1 if unit else 4), ir.Constant(mask, [1] * lanes)
    return builder.call(declare(builder, name, kind), [places, align, everywhere, ir.Constant(row, ir.Undefined)])


def gather_singly(builder: Any, address: Value, index: Value, element: Any = F32) -> Value:
    """`gather` by a load for each element. The indices go through memory, which takes fewer operations than to get each
    of them from a vector, but LLVM does the latter where it knows what a place in memory holds.
    """
    lanes, box = index.type.count, variable(builder, index.type)
    box.align = builder.store(index, box).align = lanes * 4
    place = builder.ptrtoint(box, I64)
    hidden = builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0,~{memory}", [place], side_effect=True)
    row = ir.Constant(ir.VectorType(element, lanes), ir.Undefined)
    for k in range(lanes):
        at = builder.zext(load(builder, hidden, I64(k), I32), I64)
        row = builder.insert_element(row, load(builder, address, at, element), I32(k))
    return row


def scatter(builder: Any, address: Value, index: Value, value: Value, mask: Value) -> None:
    """Set the int32 at a vector of indices (int32, not negative), where the mask has a 1."""
    lanes = index.type.count
    places = _places(builder, address, index, I32, I32)
    kind = ir.FunctionType(ir.VoidType(), [value.type, places.type, I32, mask.type])
    function = declare(builder, f"llvm.masked.scatter.v{lanes}i32.v{lanes}p0", kind)
    builder.call(function, [value, places, ir.Constant(I32, 4), mask])


def _places(builder: Any, address: Value, index: Value, element: Any, unit: Any) -> Value:
    """A vector of pointers to elements; llvmlite does not see that a vector of indices makes one."""
    lanes = index.type.count
    places = pointer(builder, address, unit, index)
    places.type = ir.VectorType(pointer_to(unit), lanes)
    return builder.bitcast(places, ir.VectorType(pointer_to(element), lanes))


def copy(builder: Any, to: Value, source: Value, n: Value) -> None:
    """Copy n bytes between addresses that are not aligned; the two areas do not overlap."""
    places = [pointer(builder, to), pointer(builder, source)]
    function = builder.module.declare_intrinsic("llvm.memcpy", [*(place.type for place in places), n.type])
    builder.call(function, [*places, n, ir.Constant(I1, 0)])


def zero(builder: Any, to: Value, n: Value) -> None:
    """Set n bytes from an address on to 0."""
    place = pointer(builder, to)
    function = builder.module.declare_intrinsic("llvm.memset", [place.type, n.type])
    builder.call(function, [place, ir.Constant(I8, 0), n, ir.Constant(I1, 0)])


def declare(builder: Any, name: str, kind: Any) -> Any:
    """The function of LLVM's own with this name and type."""
    known = builder.module.globals.get(name)
    return ir.Function(builder.module, kind, name) if known is None else known


def variable(builder: Any, kind: Any) -> Value:
    """Pointer to a variable on the stack, allocated where the function begins."""
    with builder.goto_entry_block():
        return builder.alloca(kind)


def unpack(builder: Any, values: Value) -> list[Value]:
    """The elements of a tuple."""
    return [builder.extract_value(values, k) for k in range(len(values.type))]


@contextmanager
def loop(builder: Any, n: Value) -> Iterator[Value]:
    """Repeat what is written inside for each index below n."""
    before, test = builder.basic_block, builder.append_basic_block("loop.test")
    body, after = builder.append_basic_block("loop.body"), builder.append_basic_block("loop.after")
    builder.branch(test)
    builder.position_at_end(test)
    index = builder.phi(n.type)
    builder.cbranch(builder.icmp_signed("<", index, n), body, after)
    builder.position_at_end(body)
    yield index
    index.add_incoming(ir.Constant(n.type, 0), before)
    index.add_incoming(builder.add(index, ir.Constant(n.type, 1), flags=["nsw"]), builder.basic_block)
    builder.branch(test)
    builder.position_at_end(after)
