"""Vectors as values of kernels: their types in Numba, and their operators.

A vector has a fixed number of *elements* of one type; `WORDS`, 16 x uint32, is the one that kernels compute with. It is
written like an integer: ``+ - * & | ^ << >> < <= > >= == !=`` work element by element and wrap around, shifts and
comparisons follow the type, a comparison gives a mask, and masks know ``& | ^ ~``. A number in an expression is a
vector of equal elements. A shift by the element's width or more is undefined.

In compiled code a vector is a value in a register. In plain mode it is a NumPy array of the same dtype, whose operators
do the same; a number beside it must be a literal that its type can hold.
"""

import operator

from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, lower_cast, models, register_model, type_callable

from nncjit.jit.llvm_ir import F32, F64, I1, I8, I32

I16 = ir.IntType(16)


class Vector(types.Type):
    """The type of vectors with so many elements of one type."""

    def __init__(self, element, count, name, signed=False):
        self.element, self.count, self.signed = element, count, signed
        self.ir = ir.VectorType(element, count)
        super().__init__(name=f"{count} x {name}")

    @property
    def is_float(self):
        return self.element in (F32, F64)

    @property
    def mask(self):
        """The type of what comparisons give."""
        return _MASKS[self.count]


WORDS, INTS, FLOATS = Vector(I32, 16, "uint32"), Vector(I32, 16, "int32", signed=True), Vector(F32, 16, "float32")
DOUBLES = Vector(F64, 8, "float64")
HALVES, BYTES = Vector(I16, 32, "uint16"), Vector(I8, 64, "uint8")
MASK, BYTE_MASK = Vector(I1, 16, "bool"), Vector(I1, 64, "bool")
_MASKS = {16: MASK, 32: Vector(I1, 32, "bool"), 64: BYTE_MASK}


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.ir)


def spread(builder, number, kind):
    """A vector whose elements are all this IR value of the element's type."""
    single = builder.insert_element(ir.Constant(kind.ir, ir.Undefined), number, ir.Constant(I32, 0))
    pattern = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(single, ir.Constant(kind.ir, ir.Undefined), pattern)


@lower_cast(types.IntegerLiteral, Vector)
def _literal_to_vector(_context, builder, source, kind, _value):
    number = source.literal_value
    if kind.is_float:
        return ir.Constant(kind.ir, [float(number)] * kind.count)
    width = kind.element.width
    return ir.Constant(kind.ir, [number - (number >> (width - 1) & 1) * (1 << width)] * kind.count)


@lower_cast(types.Integer, Vector)
def _integer_to_vector(_context, builder, source, kind, value):
    if kind.is_float:
        return spread(builder, builder.sitofp(value, kind.element), kind)
    return spread(builder, builder.trunc(value, kind.element), kind)


def _binary(function, write, result=lambda kind: kind):
    """Let kernels use a binary operator on vectors of a type, one of which may be a number: write(builder, kind, x, y)
    gives the IR value.
    """

    @type_callable(function)
    def _typed(_context):
        def typer(x, y):
            kind = x if isinstance(x, Vector) else y
            fits = isinstance(kind, Vector) and all(side == kind or isinstance(side, types.Integer) for side in (x, y))
            return result(kind) if fits else None

        return typer

    def lower(context, builder, signature, args):
        kind = next(side for side in signature.args if isinstance(side, Vector))
        x, y = (context.cast(builder, value, side, kind) for value, side in zip(args, signature.args, strict=True))
        return write(builder, kind, x, y)

    for sides in ((Vector, Vector), (Vector, types.Integer), (types.Integer, Vector)):
        lower_builtin(function, *sides)(lower)


def _named(int_name, float_name=None):
    def write(builder, kind, x, y):
        return getattr(builder, float_name if kind.is_float else int_name)(x, y)

    return write


def _shift_right(builder, kind, x, y):
    return builder.ashr(x, y) if kind.signed else builder.lshr(x, y)


def _comparison(sign):
    def write(builder, kind, x, y):
        if kind.is_float:
            return builder.fcmp_ordered(sign, x, y)
        return (builder.icmp_signed if kind.signed else builder.icmp_unsigned)(sign, x, y)

    return write


for _function, _int_name, _float_name in (
    (operator.add, "add", "fadd"),
    (operator.sub, "sub", "fsub"),
    (operator.mul, "mul", "fmul"),
    (operator.truediv, None, "fdiv"),
    (operator.and_, "and_", None),
    (operator.or_, "or_", None),
    (operator.xor, "xor", None),
    (operator.lshift, "shl", None),
):
    _binary(_function, _named(_int_name, _float_name))
_binary(operator.rshift, _shift_right)
for _function, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    _binary(_function, _comparison(_sign), lambda kind: kind.mask)


@type_callable(operator.invert)
def _typed_invert(_context):
    return lambda x: x if isinstance(x, Vector) and not x.is_float else None


@lower_builtin(operator.invert, Vector)
def _invert(_context, builder, _signature, args):
    return builder.not_(args[0])
