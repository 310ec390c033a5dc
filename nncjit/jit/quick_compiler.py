"""How Numba compiles kernels in less time. The machine code is the same.

Like `numba_internals.py`, this uses what Numba does not document, and `PARTS` names all of it:

* Half of the passes are left out, as kernels have no use for them.
* Operators on numbers are typed once in a process. Numba tries one template after another for each `a + b`.
* Operators are lowered without looking for operands that are known, which only powers have, and variables without their
  sizes, which only debuggers read.
* Messages have no colours. Numba makes thousands that nobody reads, and looks at the terminal for each.
* Python does not look for garbage: a compiler makes so many objects that looking at them takes a fifth of its time.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numba
from numba import types

_PASSES = (
    ("untyped_passes", ("TranslateByteCode", "FixupArgs", "IRProcessing", "GenericRewrites", "ReconstructSSA")),
    ("typed_passes", ("NopythonTypeInference", "PreLowerStripPhis", "IRLegalization", "AnnotateTypes")),
    ("typed_passes", ("NativeLowering", "NoPythonBackend")),
)
"""What Numba does with a function, by its modules. Left out is what kernels have no use for: closures and contexts,
exceptions, functions and loops over tuples that Numba inlines itself, array expressions."""

PARTS = (
    "core.compiler.Compiler.compile_extra",
    "core.compiler.Compiler.define_pipelines",
    "core.errors.termcolor",
    "core.lowering.Lower.alloca_lltype",
    "core.lowering.Lower.lower_binop",
    "core.typing.Context.resolve_function_type",
    "core.typing.Context.resolve_value_type",
    *(f"core.{module}.{name}.run_pass" for module, names in _PASSES for name in names),
)
"""Attributes of the package numba that this module needs."""


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection and no colours. Numba's lock lets one thread compile at a time."""
    was_enabled, colours = gc.isenabled(), numba.core.errors.termcolor()
    gc.disable()
    colours.errmsg = str
    try:
        yield
    finally:
        colours.__dict__.pop("errmsg", None)
        if was_enabled:
            gc.enable()


class _Typing:
    """A typing context that remembers which types operators have, for which numbers."""

    _known: dict[Any, Any] = {}  # noqa: RUF012 - of all functions

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def resolve_value_type(self, value: Any) -> Any:
        """The type of a value, among them the functions of the module operator."""
        if not _is_operator(value):
            return self._original.resolve_value_type(value)
        if value not in self._known:
            self._known[value] = self._original.resolve_value_type(value)
        return self._known[value]

    def resolve_function_type(self, function: Any, args: Any, named: Any) -> Any:
        """The signature of a call."""
        general = tuple(map(types.unliteral, args))
        numbers = all(isinstance(kind, (types.Number, types.Boolean)) for kind in general)
        if named or not numbers or not _is_operator(getattr(function, "typing_key", None)):
            return self._original.resolve_function_type(function, args, named)
        key = function, general
        if key not in self._known:
            self._known[key] = self._original.resolve_function_type(function, general, named)
        return self._known[key]


def _is_operator(value: Any) -> bool:
    return getattr(value, "__module__", None) == "_operator"


@cache
def compiler(library_class: Any) -> Any:
    """The compiler of kernels, to be given to `numba.njit`; `library_class` holds the LLVM code that it makes, None for
    Numba's own.
    """

    class Lower(numba.core.lowering.Lower):  # type: ignore[misc]
        """From Numba's representation of a function to LLVM's."""

        def alloca_lltype(self, name: str, *more: Any, **options: Any) -> Any:
            return super().alloca_lltype(f"${name}", *more, **options)  # as one of Numba's own variables

        def lower_binop(self, result_type: Any, expr: Any, op: Any) -> Any:
            typing, signature = _Typing(self.context.typing_context), self.fndesc.calltypes[expr]
            operands = [
                self.context.cast(self.builder, self.loadvar(value.name), self.typeof(value.name), kind)
                for value, kind in zip((expr.lhs, expr.rhs), signature.args, strict=True)
            ]
            function = typing.resolve_value_type(op)
            chosen = typing.resolve_function_type(function, signature.args, {})
            result = self.context.get_function(function, chosen)(self.builder, operands)
            return self.context.cast(self.builder, result, signature.return_type, result_type)

    @numba.core.compiler_machinery.register_pass(mutates_CFG=True, analysis_only=False)
    class NativeLowering(numba.core.typed_passes.NativeLowering):  # type: ignore[misc]
        """Lowers with the class above."""

        lowering_class = Lower

    class QuickCompiler(numba.core.compiler.Compiler):  # type: ignore[misc]
        """Leaves out what can be left out."""

        def __init__(self, typing_context: Any, target_context: Any, library: Any, *more: Any) -> None:
            if library_class is not None:
                library = library_class(target_context.codegen(), "part")
            super().__init__(_Typing(typing_context), target_context, library, *more)

        def compile_extra(self, function: Any) -> Any:
            with _undisturbed():
                return super().compile_extra(function)

        def define_pipelines(self) -> Any:
            manager = numba.core.compiler_machinery.PassManager("kernel")
            for module, names in _PASSES:
                for name in names:
                    one = NativeLowering if name == "NativeLowering" else getattr(getattr(numba.core, module), name)
                    manager.add_pass(one, name)
            manager.finalize()
            return [manager]

    return QuickCompiler
