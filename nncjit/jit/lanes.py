"""Vector programs: straight-line loops over 8 or 16 lanes of float32 or int32, built as LLVM IR.

LLVM does not turn a trellis into vector code by itself. A *lane program* is a Python function that says what one step
does to all lanes; it is run once, at compile time, and writes generic vector IR, which LLVM fits to whatever the
machine has (AVX-512, AVX2, SSE, NEON)::

    @lane_program(16)
    def scale(m, values, factor, n):
        by = m.repeat(factor, 0)
        m.loop(n, lambda row: m.store(values, row, m.load(values, row) * by))

A kernel calls it with one tuple of int64, ``scale((address(a), address(f), rows))``: addresses and counts. `m` is the
machine: it loads and stores rows of so many elements, and its vectors know ``+ - * < & | ^ ~ << >>``. Numbers in an
expression are constants for all lanes.

There are three machines, all with the same results, as no operation is fused or reordered: one writes vector IR, one
writes the same lane by lane in scalar IR (``lane_program(16, scalar=True)``, for ``NNCJIT_SCALAR=1``), and with
``NUMBA_DISABLE_JIT=1`` the function runs as it is on NumPy arrays.

Nothing checks bounds. A program must show in its docstring why each row is inside its array.
"""

import ctypes
import os

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nncjit.jit import llvm_ir
from nncjit.jit.addresses import check
from nncjit.jit.compile import JIT
from nncjit.jit.llvm_ir import F32, I1, I8, I32, I64


def enabled() -> bool:
    """Whether kernels should run lane programs as vectors: not without JIT, nor where ``NNCJIT_SCALAR=1`` is set."""
    return JIT and os.environ.get("NNCJIT_SCALAR", "0") in ("", "0")


def _constant(kind, number):
    """A constant of a scalar or vector type."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def _index(number):
    """An index as an IR value."""
    return ir.Constant(I64, number) if isinstance(number, int) else number


def _is_float(kind):
    return (kind.element if isinstance(kind, ir.VectorType) else kind) == F32


class _Vector:
    """Lanes of float32, int32 or bits, with the operators that NumPy arrays have: one IR vector, or one IR scalar a
    lane.
    """

    __slots__ = ("builder", "parts")

    def __init__(self, builder, parts):
        self.builder, self.parts = builder, parts

    def map(self, function, *others):
        """function(part, part of others...) for each part; numbers among `others` become constants."""
        kind = self.parts[0].type
        lifted = [
            other.parts if isinstance(other, _Vector) else [_constant(kind, other)] * len(self.parts)
            for other in others
        ]
        return _Vector(self.builder, [function(*parts) for parts in zip(self.parts, *lifted, strict=True)])

    def _with(self, float_name, int_name, other):
        return self.map(getattr(self.builder, float_name if _is_float(self.parts[0].type) else int_name), other)

    def __add__(self, other):
        return self._with("fadd", "add", other)

    def __sub__(self, other):
        return self._with("fsub", "sub", other)

    def __mul__(self, other):
        return self._with("fmul", "mul", other)

    def __and__(self, other):
        return self.map(self.builder.and_, other)

    def __or__(self, other):
        return self.map(self.builder.or_, other)

    def __xor__(self, other):
        return self.map(self.builder.xor, other)

    def __lshift__(self, other):
        return self.map(self.builder.shl, other)

    def __rshift__(self, other):
        return self.map(self.builder.ashr, other)

    def __invert__(self):
        return self.map(self.builder.not_)

    def __lt__(self, other):
        compare = self.builder.fcmp_ordered if _is_float(self.parts[0].type) else self.builder.icmp_signed
        return self.map(lambda x, y: compare("<", x, y), other)


class _Cell:
    """A vector that changes from step to step of a loop."""

    def __init__(self, builder, start):
        self._builder, self._kinds = builder, [part.type for part in start.parts]
        self._slots = [llvm_ir.variable(builder, kind) for kind in self._kinds]
        self.set(start)

    def get(self):
        slots = zip(self._slots, self._kinds, strict=True)
        return _Vector(self._builder, [self._builder.load(slot, typ=kind) for slot, kind in slots])

    def set(self, vector):
        for slot, part in zip(self._slots, vector.parts, strict=True):
            self._builder.store(part, slot)


class _VectorMachine:
    """Writes the vector IR of a lane program."""

    def __init__(self, builder, lanes):
        self._builder, self.lanes = builder, lanes

    def _kind(self, element):
        """Type of a part."""
        return ir.VectorType(element, self.lanes)

    def _all(self, element, number):
        return _Vector(self._builder, [_constant(self._kind(element), number)])

    def _load_one(self, p, index, element):
        return llvm_ir.load(self._builder, p, _index(index), element)

    def _from(self, p, index):
        """Address of float32 number `index`."""
        return self._builder.ptrtoint(llvm_ir.pointer(self._builder, p, F32, _index(index)), I64)

    def _load_row(self, p, row, element):
        return _Vector(self._builder, [self._load_one(p, row, self._kind(element))])

    def _store_row(self, p, row, x):
        for part in x.parts:
            llvm_ir.store(self._builder, p, _index(row), part)

    def _call(self, name, x):
        kind = x.parts[0].type
        suffix = f"v{self.lanes}f32" if isinstance(kind, ir.VectorType) else "f32"
        function = llvm_ir.declare(self._builder, f"llvm.{name}.{suffix}", ir.FunctionType(kind, [kind]))
        return x.map(lambda part: self._builder.call(function, [part]))

    def number(self, number):
        """All lanes the same float32."""
        return self._all(F32, number)

    def constant(self, number):
        """All lanes the same int32."""
        return self._all(I32, number)

    def mask(self, bits):
        """A constant mask, from a list of bools."""
        return _Vector(self._builder, [ir.Constant(self._kind(I1), [int(bit) for bit in bits])])

    def repeat(self, p, index):
        """All lanes the float32 at element `index`."""
        return self.spread(p, index, [0] * self.lanes)

    def spread(self, p, index, pattern):
        """Lane i is element pattern[i] of group `index` of float32; groups are as long as the pattern needs."""
        group = self._load_one(p, index, ir.VectorType(F32, max(pattern) + 1))
        undefined = ir.Constant(group.type, ir.Undefined)
        return _Vector(
            self._builder, [self._builder.shuffle_vector(group, undefined, ir.Constant(self._kind(I32), pattern))]
        )

    def load(self, p, row):
        """Row of float32."""
        return self._load_row(p, row, F32)

    def load_from(self, p, index):
        """Consecutive float32 from element `index` on."""
        return self._load_row(self._from(p, index), 0, F32)

    def load_int(self, p, row):
        """Row of int32."""
        return self._load_row(p, row, I32)

    def load_u8(self, p, row):
        """Row of bytes, as int32."""
        return self._load_row(p, row, I8).map(lambda part: self._builder.zext(part, self._kind(I32)))

    def store(self, p, row, x):
        """Store a row of float32 or of int32."""
        self._store_row(p, row, x)

    def store_to(self, p, index, x):
        """Store float32 from element `index` on."""
        self._store_row(self._from(p, index), 0, x)

    def store_u8(self, p, row, x):
        """Store the low bytes of a row of int32."""
        self._store_row(p, row, x.map(lambda part: self._builder.trunc(part, self._kind(I8))))

    def store_bits(self, p, index, mask):
        """Store a mask as integer `index` of as many bits as there are lanes, lane 0 lowest."""
        bits = self._builder.bitcast(mask.parts[0], ir.IntType(self.lanes))
        llvm_ir.store(self._builder, p, _index(index), bits)

    def gather(self, p, index):
        """The float32 at elements `index` (int32, not negative)."""
        return _Vector(self._builder, [llvm_ir.gather(self._builder, p, index.parts[0])])

    def shuffle(self, x, y, pattern):
        """Lane i is lane pattern[i] of x, or lane pattern[i] - lanes of y."""
        pattern = ir.Constant(self._kind(I32), pattern)
        return x.map(lambda a, b: self._builder.shuffle_vector(a, b, pattern), y)

    def absolute(self, x):
        return self._call("fabs", x)

    def rint(self, x):
        """Nearest whole number, halves to even."""
        return self._call("rint", x)

    def select(self, mask, x, y):
        """x where mask, else y; one of the two may be a number."""
        if isinstance(x, _Vector):
            return x.map(lambda a, b, chosen: self._builder.select(chosen, a, b), y, mask)
        return y.map(lambda b, a, chosen: self._builder.select(chosen, a, b), x, mask)

    def minimum(self, x, y):
        """The lesser; y where they do not compare."""
        return self.select(x < y, x, y)

    def to_int(self, x):
        """float32 to int32, towards zero; must fit."""
        return x.map(lambda part: self._builder.fptosi(part, self._kind(I32)))

    def to_float(self, x):
        return x.map(lambda part: self._builder.sitofp(part, self._kind(F32)))

    def cell(self, start):
        """A variable that a loop can change: .get(), .set(vector)."""
        return _Cell(self._builder, start)

    def loop(self, n, body):
        """body(row) for row = 0 .. n - 1."""
        with llvm_ir.loop(self._builder, n) as row:
            body(row)

    def loop_down(self, n, body):
        """body(row) for row = n - 1 .. 0."""
        last = self._builder.sub(n, ir.Constant(I64, 1))
        self.loop(n, lambda row: body(self._builder.sub(last, row)))

    def times(self, index, factor, plus=0):
        """index * factor + plus, for row numbers; each an argument, a loop's row, or an int."""
        index, factor, plus = map(_index, (index, factor, plus))
        return self._builder.add(self._builder.mul(index, factor), plus)


class _ScalarMachine(_VectorMachine):
    """Writes a lane program in scalar IR, lane by lane."""

    def _kind(self, element):
        return element

    def _all(self, element, number):
        return _Vector(self._builder, [ir.Constant(element, number)] * self.lanes)

    def _group(self, p, index, element, count, pattern):
        first = self.times(index, count)
        ones = [self._load_one(p, self.times(first, 1, k), element) for k in range(count)]
        return _Vector(self._builder, [ones[k] for k in pattern])

    def _load_row(self, p, row, element):
        return self._group(p, row, element, self.lanes, range(self.lanes))

    def _store_row(self, p, row, x):
        first = self.times(row, self.lanes)
        for lane, part in enumerate(x.parts):
            llvm_ir.store(self._builder, p, self.times(first, 1, lane), part)

    def mask(self, bits):
        return _Vector(self._builder, [ir.Constant(I1, int(bit)) for bit in bits])

    def spread(self, p, index, pattern):
        return self._group(p, index, F32, max(pattern) + 1, pattern)

    def store_bits(self, p, index, mask):
        kind = ir.IntType(self.lanes)
        word = ir.Constant(kind, 0)
        for lane, part in enumerate(mask.parts):
            word = self._builder.or_(word, self._builder.shl(self._builder.zext(part, kind), ir.Constant(kind, lane)))
        llvm_ir.store(self._builder, p, _index(index), word)

    def gather(self, p, index):
        return index.map(lambda part: self._load_one(p, self._builder.sext(part, I64), F32))

    def shuffle(self, x, y, pattern):
        both = x.parts + y.parts
        return _Vector(self._builder, [both[k] for k in pattern])


class _NumpyCell:
    def __init__(self, start):
        self.set(start)

    def get(self):
        return self._vector

    def set(self, vector):
        self._vector = vector


class _NumpyMachine:
    """Runs a lane program on NumPy arrays."""

    def __init__(self, lanes):
        self.lanes = lanes

    def _at(self, p, index, dtype, count, writes=False):
        size = count * np.dtype(dtype).itemsize
        first = int(p) + size * int(index)
        check(first, size, writes=writes)
        return np.frombuffer((ctypes.c_char * size).from_address(first), dtype)

    def number(self, number):
        return np.full(self.lanes, number, np.float32)

    def constant(self, number):
        return np.full(self.lanes, number, np.int32)

    def mask(self, bits):
        return np.array(bits, bool)

    def repeat(self, p, index):
        return self.spread(p, index, [0] * self.lanes)

    def spread(self, p, index, pattern):
        return self._at(p, index, np.float32, max(pattern) + 1)[pattern]

    def load(self, p, row):
        return self._at(p, row, np.float32, self.lanes).copy()

    def load_from(self, p, index):
        return self.load(p + 4 * index, 0)

    def load_int(self, p, row):
        return self._at(p, row, np.int32, self.lanes).copy()

    def load_u8(self, p, row):
        return self._at(p, row, np.uint8, self.lanes).astype(np.int32)

    def store(self, p, row, x):
        self._at(p, row, x.dtype, self.lanes, writes=True)[:] = x

    def store_to(self, p, index, x):
        self.store(p + 4 * index, 0, x)

    def store_u8(self, p, row, x):
        self._at(p, row, np.uint8, self.lanes, writes=True)[:] = x & 255

    def store_bits(self, p, index, mask):
        packed = np.packbits(mask, bitorder="little")
        self._at(p, index, np.uint8, packed.size, writes=True)[:] = packed

    def gather(self, p, index):
        return np.array([self._at(p, i, np.float32, 1)[0] for i in index], np.float32)

    def shuffle(self, x, y, pattern):
        return np.concatenate([x, y])[pattern]

    def absolute(self, x):
        return np.abs(x)

    def rint(self, x):
        return np.rint(x)

    def select(self, mask, x, y):
        return np.where(mask, x, y).astype((x if isinstance(x, np.ndarray) else y).dtype)

    def minimum(self, x, y):
        return np.where(x < y, x, y)

    def to_int(self, x):
        return x.astype(np.int32)

    def to_float(self, x):
        return x.astype(np.float32)

    def cell(self, start):
        return _NumpyCell(start)

    def loop(self, n, body):
        for row in range(n):
            body(row)

    def loop_down(self, n, body):
        for row in range(n - 1, -1, -1):
            body(row)

    def times(self, index, factor, plus=0):
        return index * factor + plus


def lane_program(lanes, scalar=False):
    """Make a kernel-callable function of a lane program: it takes one tuple of int64 and returns nothing.

    lanes  : 8 or 16
    scalar : write scalar IR instead of vectors
    """

    def wrap(program):
        if not JIT:
            return lambda arguments: program(_NumpyMachine(lanes), *arguments)
        machine = _ScalarMachine if scalar else _VectorMachine

        @intrinsic
        def run(context, arguments):
            def generate(context, builder, _signature, args):
                program(machine(builder, lanes), *llvm_ir.unpack(builder, args[0]))
                return context.get_dummy_value()

            return types.void(arguments), generate

        return run

    return wrap
