"""Loads and stores at raw addresses, for the inner loops of kernels.

An array that is passed to a function inside a hot loop is reference-counted there with atomic instructions, and every
index is checked for wraparound; an address is a plain int64. Measured on the layer decoder, addresses are 1.8 to 2.4
times as fast as arrays. The price is that compiled code checks no bounds: a kernel shows in its docstring why each
address is inside its array.

All functions take `p`, the address of element 0, and `i`, the index of the element in units of its own size; values are
int64. With ``NUMBA_DISABLE_JIT=1`` the same functions read and write through ctypes, and each access is checked against
the books of `nncjit.jit.addresses`.
"""

import ctypes

import numpy as np
from llvmlite import ir
from numba import TypingError, types
from numba.extending import intrinsic

from nncjit.jit import llvm_ir
from nncjit.jit.addresses import check
from nncjit.jit.compile import JIT
from nncjit.jit.llvm_ir import F32, I1, I32, I64


def _make_load(bits, signed):
    if not JIT:
        ctype = getattr(ctypes, f"c_{'' if signed else 'u'}int{bits}")
        size = bits // 8

        def load_python(p, i):
            at = int(p) + size * int(i)
            check(at, size)
            return ctype.from_address(at).value

        return load_python
    element = ir.IntType(bits)

    @intrinsic
    def load(context, p, i):
        def generate(_context, builder, _signature, args):
            value = llvm_ir.load(builder, *args, element)
            if bits == 64:
                return value
            return builder.sext(value, I64) if signed else builder.zext(value, I64)

        return types.int64(types.int64, types.int64), generate

    return load


def _make_store(bits):
    if not JIT:
        ctype = getattr(ctypes, f"c_uint{bits}")
        size = bits // 8

        def store_python(p, i, value):
            at = int(p) + size * int(i)
            check(at, size, writes=True)
            ctype.from_address(at).value = int(value) & ((1 << bits) - 1)

        return store_python
    element = ir.IntType(bits)

    @intrinsic
    def store(context, p, i, value):
        def generate(context, builder, _signature, args):
            value = builder.trunc(args[2], element) if bits < 64 else args[2]
            llvm_ir.store(builder, args[0], args[1], value)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return store


def _make_float_store(ctype, kind):
    if not JIT:
        size = ctypes.sizeof(ctype)

        def store_python(p, i, value):
            at = int(p) + size * int(i)
            check(at, size, writes=True)
            ctype.from_address(at).value = float(value)

        return store_python

    @intrinsic
    def store(context, p, i, value):
        def generate(context, builder, _signature, args):
            llvm_ir.store(builder, *args)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, kind), generate

    return store


load_u8, load_i8 = _make_load(8, signed=False), _make_load(8, signed=True)
load_u16, load_i16 = _make_load(16, signed=False), _make_load(16, signed=True)
load_u32, load_i32 = _make_load(32, signed=False), _make_load(32, signed=True)
load_i64 = _make_load(64, signed=True)
store_8, store_16, store_32, store_64 = _make_store(8), _make_store(16), _make_store(32), _make_store(64)
store_f32 = _make_float_store(ctypes.c_float, types.float32)
store_f64 = _make_float_store(ctypes.c_double, types.float64)

if JIT:

    @intrinsic
    def load_f32(context, p, i):
        """The float32 at element i of the array at address p."""

        def generate(_context, builder, _signature, args):
            return llvm_ir.load(builder, *args, F32)

        return types.float32(types.int64, types.int64), generate

    @intrinsic
    def float_bits(context, x):
        """The 32 bits of a float32."""

        def generate(_context, builder, _signature, args):
            return builder.zext(builder.bitcast(args[0], I32), I64)

        return types.int64(types.float32), generate

    @intrinsic
    def float_of_bits(context, x):
        """The float32 that has these 32 bits."""

        def generate(_context, builder, _signature, args):
            return builder.bitcast(builder.trunc(args[0], I32), F32)

        return types.float32(types.int64), generate

    def _chosen(kinds, sign):
        """Of two numbers the second, if it is below or above the first, for an intrinsic."""
        kind, other = (types.int64 if isinstance(kind, types.Integer) else kind for kind in kinds)
        if kind != other or not isinstance(kind, types.Number):
            raise TypingError(f"two numbers of one type are compared, not {kind} and {other}")

        def generate(_context, builder, _signature, args):
            compare = builder.icmp_signed if kind == types.int64 else builder.fcmp_ordered
            return builder.select(compare(sign, args[1], args[0]), args[1], args[0])

        return kind(kind, kind), generate

    @intrinsic
    def smaller(_context, x, y):
        """``min(x, y)``, which Numba compiles as a function of its own, for two int64 or two floats of one type."""
        return _chosen((x, y), "<")

    @intrinsic
    def larger(_context, x, y):
        """``max(x, y)``."""
        return _chosen((x, y), ">")

    @intrinsic
    def leading_zeros(context, x):
        """Number of leading zero bits of the 64-bit word x; 64 for x = 0."""

        def generate(_context, builder, _signature, args):
            return builder.ctlz(args[0], ir.Constant(I1, 0))

        return types.int64(types.int64), generate

    @intrinsic
    def byteswap32(context, x):
        """The low four bytes of x in reverse order."""

        def generate(_context, builder, _signature, args):
            return builder.zext(builder.bswap(builder.trunc(args[0], I32)), I64)

        return types.int64(types.int64), generate

    @intrinsic
    def atomic_add(context, p, value):
        """Add value to the int64 at address p, in one step for all threads; returns what was there before. Who sees the
        sum sees what was written before it.
        """

        def generate(_context, builder, _signature, args):
            return builder.atomic_rmw("add", llvm_ir.pointer(builder, args[0], I64), args[1], "acq_rel")

        return types.int64(types.int64, types.int64), generate

    @intrinsic
    def copy_bytes(context, to, source, n):
        """Copy n bytes between addresses; the two areas do not overlap."""

        def generate(context, builder, _signature, args):
            llvm_ir.copy(builder, *args)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    @intrinsic
    def zero_bytes(context, to, n):
        """Set n bytes from an address on to 0."""

        def generate(context, builder, _signature, args):
            llvm_ir.zero(builder, *args)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

else:

    def load_f32(p, i):
        at = int(p) + 4 * int(i)
        check(at, 4)
        return np.float32(ctypes.c_float.from_address(at).value)

    def float_bits(x):
        return int(np.float32(x).view(np.uint32))

    def float_of_bits(x):
        return np.uint32(x).view(np.float32)

    smaller, larger = min, max

    def leading_zeros(x):
        return 64 - (int(x) & ((1 << 64) - 1)).bit_length()

    def byteswap32(x):
        return int.from_bytes((int(x) & 0xFFFFFFFF).to_bytes(4, "little"), "big")

    def atomic_add(p, value):
        check(int(p), 8, writes=True)
        cell = ctypes.c_int64.from_address(int(p))
        before = cell.value
        cell.value = before + value
        return before

    def copy_bytes(to, source, n):
        check(int(to), int(n), writes=True)
        check(int(source), int(n))
        ctypes.memmove(int(to), int(source), int(n))

    def zero_bytes(to, n):
        check(int(to), int(n), writes=True)
        ctypes.memset(int(to), 0, int(n))
