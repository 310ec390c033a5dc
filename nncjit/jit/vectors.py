"""Vectors of 512 bits in kernels: 16 streams side by side, one in each *lane*.

A kernel handles a vector like a number. Operators are in `vector_types.py`; here are the functions: ::

    word = gather(models, at)
    less = window >= split
    window = select(less, window - split, window)

They are compiled to LLVM's generic vectors, and to AVX-512 where an operation has no generic form. So a kernel that
uses them can only be compiled where `processor.has_wide_vectors` holds; one whose vectors are all DOUBLES can
everywhere, since these have generic forms only. In plain mode `plain_vectors.py` does the same on NumPy arrays and
checks every address; compiled code checks none: a kernel shows in its docstring why its addresses are inside their
arrays. An index is a uint32 below 2^31.

`p` is an address that need not be aligned. WORDS, INTS, FLOATS: 16 x 32 bits; DOUBLES: 8 x float64; HALVES: 32 x
uint16; BYTES: 64 x uint8; MASK: 16 x bool.
"""

from llvmlite import ir
from numba import TypingError, types
from numba.extending import intrinsic

from nncjit.jit import llvm_ir, plain_vectors
from nncjit.jit.compile import JIT
from nncjit.jit.llvm_ir import F32, I1, I8, I32, I64
from nncjit.jit.processor import features, has_slow_gathers
from nncjit.jit.vector_types import (
    BYTE_MASK,
    BYTES,
    DOUBLES,
    FLOATS,
    HALVES,
    I16,
    INTS,
    MASK,
    WORDS,
    Vector,
    spread,
)

SAME = "the type of this argument"
"""In place of a type in `operation`: any vector, the same wherever it stands."""
ADDRESS = NUMBER = types.int64


def operation(result, *arguments):
    """Make a function that writes IR callable from kernels; `plain_vectors` has its twin.

    result, arguments : types, `SAME` among them
    """

    def wrap(write):
        if not JIT:
            return getattr(plain_vectors, write.__name__)

        def typed(given):
            same = [kind for kind, wanted in zip(given, arguments, strict=True) if wanted is SAME]
            vectors = [kind for kind in same if isinstance(kind, Vector)]
            if same and not vectors:
                raise TypingError(f"{write.__name__} takes a vector, not {same[0]}")
            kinds = [vectors[0] if kind is SAME else kind for kind in (result, *arguments)]

            def generate(context, builder, _signature, args):
                value = write(builder, *args)
                return context.get_dummy_value() if result is types.void else value

            return kinds[0](*kinds[1:]), generate

        by_count = {
            0: lambda _context: typed(()),
            1: lambda _context, a: typed((a,)),
            2: lambda _context, a, b: typed((a, b)),
            3: lambda _context, a, b, c: typed((a, b, c)),
            4: lambda _context, a, b, c, d: typed((a, b, c, d)),
        }
        function = by_count[len(arguments)]
        function.__name__, function.__doc__ = write.__name__, write.__doc__
        return intrinsic(function)

    return wrap


def _call(builder, name, kind, *args):
    """Call a function of LLVM that returns this IR type."""
    signature = ir.FunctionType(kind, [value.type for value in args])
    return builder.call(llvm_ir.declare(builder, f"llvm.{name}", signature), args)


def _all_ones(kind):
    return ir.Constant(kind.ir, [1] * kind.count)


# Memory


@operation(WORDS, ADDRESS)
def load_words(builder, p):
    """16 uint32."""
    return llvm_ir.load(builder, p, I64(0), WORDS.ir)


@operation(BYTES, ADDRESS)
def load_bytes(builder, p):
    """64 bytes."""
    return llvm_ir.load(builder, p, I64(0), BYTES.ir)


@operation(WORDS, ADDRESS)
def load_bytes_as_words(builder, p):
    """16 bytes, each as a word."""
    return builder.zext(llvm_ir.load(builder, p, I64(0), ir.VectorType(I8, 16)), WORDS.ir)


@operation(DOUBLES, ADDRESS)
def load_floats_as_doubles(builder, p):
    """8 float32, each as a float64."""
    return builder.fpext(llvm_ir.load(builder, p, I64(0), ir.VectorType(F32, DOUBLES.count)), DOUBLES.ir)


@operation(DOUBLES, ADDRESS)
def load_ints_as_doubles(builder, p):
    """8 int32, each as a float64."""
    return builder.sitofp(llvm_ir.load(builder, p, I64(0), ir.VectorType(I32, DOUBLES.count)), DOUBLES.ir)


@operation(WORDS, ADDRESS)
def load_halves_as_words(builder, p):
    """16 uint16, each as a word."""
    return builder.zext(llvm_ir.load(builder, p, I64(0), ir.VectorType(I16, 16)), WORDS.ir)


@operation(types.void, ADDRESS, SAME)
def store_vector(builder, p, x):
    """All elements of a vector, one after the other."""
    llvm_ir.store(builder, p, I64(0), x)


@operation(types.void, ADDRESS, SAME, MASK)
def store_words_where(builder, p, x, mask):
    """Elements of 16 x 32 bits to their places, those of the mask only: nothing else is touched."""
    place = llvm_ir.pointer(builder, p, x.type)
    kind = ir.FunctionType(ir.VoidType(), [x.type, place.type, I32, MASK.ir])
    name = "llvm.masked.store.v16f32.p0" if x.type.element == F32 else "llvm.masked.store.v16i32.p0"
    builder.call(llvm_ir.declare(builder, name, kind), [x, place, I32(4), mask])


@operation(types.void, ADDRESS, WORDS)
def store_low_bytes(builder, p, x):
    """The low byte of each word: 16 bytes."""
    llvm_ir.store(builder, p, I64(0), builder.trunc(x, ir.VectorType(I8, 16)))


@operation(types.void, ADDRESS, WORDS)
def store_low_halves(builder, p, x):
    """The low half of each word: 16 uint16."""
    llvm_ir.store(builder, p, I64(0), builder.trunc(x, ir.VectorType(I16, 16)))


@operation(WORDS, ADDRESS, WORDS)
def gather(builder, p, index):
    """The uint32 at elements `index` of the array at p."""
    way = llvm_ir.gather_singly if has_slow_gathers() else llvm_ir.gather
    return way(builder, p, index, I32)


@operation(WORDS, ADDRESS, WORDS)
def gather_unaligned(builder, p, index):
    """The uint32 that begin `index` bytes from p."""
    return llvm_ir.gather(builder, p, index, I32, unit=I8)


@operation(types.void, ADDRESS, WORDS, WORDS)
def scatter(builder, p, index, x):
    """Set the uint32 at elements `index` of the array at p; of equal indices the highest lane wins."""
    llvm_ir.scatter(builder, p, index, x, _all_ones(MASK))


@operation(types.void, ADDRESS, WORDS, WORDS, MASK)
def scatter_where(builder, p, index, x, mask):
    """`scatter` the lanes of the mask."""
    llvm_ir.scatter(builder, p, index, x, mask)


@operation(WORDS, ADDRESS, MASK, WORDS)
def load_expanded(builder, p, mask, x):
    """Consecutive uint32 from p on for the lanes of the mask, in order; x elsewhere. Nothing behind them is touched."""
    return _call(builder, "masked.expandload.v16i32", WORDS.ir, llvm_ir.pointer(builder, p, I32), mask, x)


# Elements


@operation(WORDS, NUMBER)
def repeat(builder, number):
    """The low 32 bits of a number in all lanes."""
    return spread(builder, builder.trunc(number, I32), WORDS)


@operation(FLOATS, types.float32)
def repeat_float(builder, number):
    """A float32 in all lanes."""
    return spread(builder, number, FLOATS)


@operation(DOUBLES, types.float64)
def repeat_double(builder, number):
    """8 times the same number."""
    return spread(builder, number, DOUBLES)


@operation(WORDS)
def lane_numbers(_builder):
    """0, 1, .. 15."""
    return ir.Constant(WORDS.ir, list(range(16)))


@operation(SAME, MASK, SAME, SAME)
def select(builder, mask, x, y):
    """x in the lanes of the mask, else y; one of the two may be a number."""
    return builder.select(mask, x, y)


@operation(INTS, WORDS)
def signed(_builder, x):
    """The same bits as signed numbers, whose `>>` keeps the sign."""
    return x


@operation(WORDS, SAME)
def words(builder, x):
    """The same bits as 16 x uint32."""
    return builder.bitcast(x, WORDS.ir)


@operation(HALVES, WORDS)
def halves(builder, x):
    """The same bits as 32 x uint16; of each word the low half comes first."""
    return builder.bitcast(x, HALVES.ir)


@operation(FLOATS, INTS)
def to_float(builder, x):
    """The nearest float32."""
    return builder.sitofp(x, FLOATS.ir)


@operation(FLOATS, WORDS)
def unsigned_to_float(builder, x):
    """The nearest float32 of numbers without a sign."""
    return builder.uitofp(x, FLOATS.ir)


@operation(INTS, FLOATS)
def to_int(builder, x):
    """Towards zero; must fit."""
    return builder.fptosi(x, INTS.ir)


@operation(INTS, INTS)
def absolute(builder, x):
    """The magnitude; the least number stays as it is."""
    return _call(builder, "abs.v16i32", INTS.ir, x, I1(0))


@operation(WORDS, WORDS, WORDS)
def minimum(builder, x, y):
    """The lesser of each two."""
    return _call(builder, "umin.v16i32", WORDS.ir, x, y)


@operation(WORDS, WORDS, WORDS)
def shift_left(builder, x, by):
    """``x << by``, and 0 where `by` is 32 or more."""
    return _call(builder, "x86.avx512.psllv.d.512", WORDS.ir, x, by)


@operation(WORDS, WORDS)
def leading_zero_bits(builder, x):
    """How many zeros each word begins with; 32 for 0."""
    return _call(builder, "ctlz.v16i32", WORDS.ir, x, I1(0))


@operation(WORDS, WORDS)
def swap_bytes(builder, x):
    """The bytes of each word in reverse order."""
    return _call(builder, "bswap.v16i32", WORDS.ir, x)


@operation(HALVES, HALVES, HALVES)
def high_product(builder, x, y):
    """The upper 16 bits of each product."""
    return _call(builder, "x86.avx512.pmulhu.w.512", HALVES.ir, x, y)


@operation(WORDS, WORDS, WORDS, WORDS)
def pick(builder, index, low, high):
    """Entries of a table of 32 words in two registers; the low 5 bits of the index count."""
    return _call(builder, "x86.avx512.vpermi2var.d.512", WORDS.ir, low, index, high)


@operation(HALVES, HALVES, HALVES)
def pick_halves(builder, index, table):
    """Entries of a table of 32 x uint16 in a register; the low 5 bits of the index count."""
    return _call(builder, "x86.avx512.permvar.hi.512", HALVES.ir, table, index)


@operation(NUMBER, WORDS)
def least(builder, x):
    """The least of the elements."""
    return builder.zext(_call(builder, "vector.reduce.umin.v16i32", I32, x), I64)


# Masks


@operation(types.float64, DOUBLES, NUMBER)
def element(builder, x, i):
    """Element i."""
    return builder.extract_element(x, i)


@operation(types.boolean, MASK)
def any_lane(builder, mask):
    """Whether the mask has a lane at all."""
    return builder.icmp_unsigned("!=", builder.bitcast(mask, I16), I16(0))


@operation(NUMBER, SAME)
def mask_bits(builder, mask):
    """A mask as a number: lane 0 is bit 0."""
    count = mask.type.count
    bits = builder.bitcast(mask, ir.IntType(count))
    return bits if count == 64 else builder.zext(bits, I64)


@operation(MASK, NUMBER)
def mask_of(builder, bits):
    """The mask of 16 lanes whose number this is."""
    return builder.bitcast(builder.trunc(bits, I16), MASK.ir)


@operation(NUMBER, NUMBER)
def lowest_one(builder, bits):
    """The index of the lowest bit of a 64-bit number that is 1; 64 for 0."""
    return _call(builder, "cttz.i64", I64, bits, I1(0))


@operation(NUMBER, NUMBER)
def count_ones(builder, bits):
    """How many bits of a 64-bit number are 1."""
    return _call(builder, "ctpop.i64", I64, bits)


# Packing


@operation(WORDS, WORDS, MASK)
def compress_words(builder, x, mask):
    """The lanes of the mask moved together, in order, from lane 0 on; then zeros."""
    return _call(builder, "x86.avx512.mask.compress.v16i32", WORDS.ir, x, ir.Constant(WORDS.ir, None), mask)


@operation(WORDS, WORDS, MASK)
def expand_words(builder, x, mask):
    """The first lanes of x moved apart, in order, to the lanes of the mask; zeros elsewhere."""
    return _call(builder, "x86.avx512.mask.expand.v16i32", WORDS.ir, x, ir.Constant(WORDS.ir, None), mask)


@operation(types.void, ADDRESS, BYTES, BYTE_MASK)
def store_packed_bytes(builder, p, x, mask):
    """The bytes of the mask moved together, in order; 64 bytes are written, those behind them mean nothing."""
    if "avx512vbmi2" in features():
        packed = _call(builder, "x86.avx512.mask.compress.v64i8", BYTES.ir, x, ir.Constant(BYTES.ir, None), mask)
        llvm_ir.store(builder, p, I64(0), packed)
        return
    bits = builder.bitcast(mask, I64)
    for first in range(0, 64, 16):
        pattern = ir.Constant(WORDS.ir, list(range(first, first + 16)))
        part = builder.zext(builder.shuffle_vector(x, ir.Constant(BYTES.ir, ir.Undefined), pattern), WORDS.ir)
        chosen = builder.trunc(builder.lshr(bits, I64(first)), I16)
        packed = _call(
            *(builder, "x86.avx512.mask.compress.v16i32", WORDS.ir, part),
            *(ir.Constant(WORDS.ir, None), builder.bitcast(chosen, MASK.ir)),
        )
        llvm_ir.store(builder, p, I64(0), builder.trunc(packed, ir.VectorType(I8, 16)))
        p = builder.add(p, _call(builder, "ctpop.i64", I64, builder.zext(chosen, I64)))


@operation(types.void, ADDRESS)
def turn_bytes(builder, p):
    """64 rows of 16 bytes from p on become 16 rows of 64 in their place: byte 16 r + c goes to 64 c + r.

    First 4 rows by 4 to words of a column each; then 16 rows of 16 words are turned by exchanging halves, quarters,
    and so on, of the square. All stay in registers; gathers of the words take up to twice as long.
    """
    anything = ir.Constant(BYTES.ir, ir.Undefined)
    pattern = ir.Constant(ir.VectorType(I32, 64), [16 * (k % 4) + k // 4 for k in range(64)])
    rows = [
        builder.bitcast(builder.shuffle_vector(llvm_ir.load(builder, p, I64(k), BYTES.ir), anything, pattern), WORDS.ir)
        for k in range(16)
    ]
    for half in (8, 4, 2, 1):
        upper = [k ^ half | 16 if k & half else k for k in range(16)]
        lower = [k | 16 if k & half else k | half for k in range(16)]
        for k in range(16):
            if not k & half:
                pair = rows[k], rows[k | half]
                rows[k], rows[k | half] = (
                    builder.shuffle_vector(*pair, ir.Constant(WORDS.ir, chosen)) for chosen in (upper, lower)
                )
    for k, row in enumerate(rows):
        llvm_ir.store(builder, p, I64(k), row)
