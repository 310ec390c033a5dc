"""What this package uses of Numba and llvmlite beyond their documentation, and nothing else does.

A part that a version of Numba does not promise may be gone in the next. So each part belongs to a feature that kernels
can do without. Importing this module looks every part up by name; where one is missing, its feature is off, a warning
says what that costs, and everything else goes on. Results are the same with any set of features.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nncjit.jit import quick_compiler

WORKER = (types.int64, types.int64)
"""The arguments of a kernel that is called by its address."""

_DECLARED = re.compile(r"^(?:declare .*?|)@\"?((?!llvm\.)[\w.$]+)\"?(?:\(| = external)", re.MULTILINE)
"""A function or variable that LLVM code takes from elsewhere."""


class Feature(NamedTuple):
    """A use of parts that Numba does not document."""

    of_numba: tuple[str, ...]
    """Attributes of the package numba that it needs."""
    of_dispatcher: tuple[str, ...]
    """Attributes that a compiled function needs."""
    without: str
    """What the user notices where one of them is missing."""

    def missing(self, dispatcher: Any) -> list[str]:
        """The parts that are not there."""
        parts = [(numba, name) for name in self.of_numba] + [(dispatcher, name) for name in self.of_dispatcher]
        return [name for root, name in parts if not _has(root, name)]


FEATURES = {
    "cache": Feature(
        (
            "core.codegen.JITCodeLibrary.get_llvm_str",
            "core.codegen.JITCodeLibrary.has_dynamic_globals",
            "core.compiler.CompileResult._rebuild",
            "core.compiler.CompileResult._reduce",
            "core.cpu.CPUContext.refresh",
            "core.runtime.rtsys.initialize",
        ),
        ("_cache",),
        "every process compiles its kernels anew",
    ),
    "bare helpers": Feature(
        ("core.cpu.CPUTargetOptions.no_cpython_wrapper",),
        ("_compile_for_args", "_insert"),
        "kernels take longer to compile",
    ),
    "quick compiler": Feature(quick_compiler.PARTS, (), "kernels take longer to compile"),
    "one signature": Feature((), ("get_call_template",), "kernels take longer to compile"),
    "helpers as parts": Feature(
        (
            "core.codegen.JITCodeLibrary._finalize_dynamic_globals",
            "core.codegen.JITCodeLibrary._finalize_final_module",
            "core.codegen.JITCodeLibrary._optimize_final_module",
            "core.codegen.JITCodeLibrary.codegen",
        ),
        (),
        "kernels take longer to compile",
    ),
    "no C wrapper": Feature(("core.cpu.CPUTargetOptions.no_cfunc_wrapper",), (), "kernels take longer to compile"),
    "forced inlining": Feature(("core.cpu.CPUTargetOptions.forceinline",), (), "kernels are slower"),
    "calls by address": Feature(
        (
            "core.codegen.JITCodeLibrary.get_pointer_to_function",
            "core.cpu.CPUContext.call_conv",
            "core.funcdesc.FunctionDescriptor.llvm_func_name",
        ),
        ("compile", "overloads"),
        "kernels share their work among Python's threads only, and wait for each other while one is compiled",
    ),
    "fork guard": Feature(
        ("core.compiler_lock.global_compiler_lock.acquire", "core.compiler_lock.global_compiler_lock.release"),
        (),
        "a process that forks while another thread compiles may hang",
    ),
}


def _has(root: Any, name: str) -> bool:
    try:
        attrgetter(name)(root)
    except AttributeError:
        return False
    return True


def _look() -> frozenset[str]:
    """The features that this Numba has; without compilation nobody asks for any."""
    if numba.config.DISABLE_JIT:
        return frozenset()
    dispatcher = numba.njit(lambda: None)
    missing = {name: parts for name, feature in FEATURES.items() if (parts := feature.missing(dispatcher))}
    for name, parts in missing.items():
        message = f"Numba {numba.__version__} has no {', '.join(parts)}: {FEATURES[name].without}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return frozenset(FEATURES) - frozenset(missing)


AVAILABLE = _look()
"""The names of the features that are there."""


# How functions are compiled


def options(*, python: bool = True, inline: bool = False, parallel: bool = False) -> dict[str, Any]:
    """Options of `numba.njit` that leave out what is not needed.

    Parameters
    ----------
    python : bool
        False for a function that only kernels call: no wrapper is compiled, and calls must be refused.
    inline : bool
        Whether LLVM must put the function into each place that calls it.
    parallel : bool
        Whether it has a parallel loop, which takes all of Numba's passes.
    """
    wanted = {
        "parallel": parallel,
        "no_cfunc_wrapper": "no C wrapper" in AVAILABLE,
        "no_cpython_wrapper": not python and "bare helpers" in AVAILABLE,
        "forceinline": inline and "forced inlining" in AVAILABLE,
    }
    found: dict[str, Any] = {name: True for name, chosen in wanted.items() if chosen}
    as_part = "no_cpython_wrapper" in found and "helpers as parts" in AVAILABLE
    if as_part or ("quick compiler" in AVAILABLE and not parallel):
        found["pipeline_class"] = _compiler(as_part=as_part)
    return found


@cache
def _compiler(*, as_part: bool) -> Any:
    """The compiler of kernels, or of functions that only kernels call: LLVM sees these as parts of kernels, and never
    alone.

    Numba makes machine code of each function that it compiles, and of all that the function calls, which half of the
    time goes into.
    """

    class NoEnvironments:
        """Takes what a function needs for Python's objects; a function that only kernels call has none."""

        @staticmethod
        def set_env(_name: str, _environment: Any) -> None: ...

    class Part(numba.core.codegen.JITCodeLibrary):  # type: ignore[misc]
        """LLVM code to be linked into a kernel."""

        codegen = NoEnvironments

        def _optimize_final_module(self) -> None: ...

        def _finalize_final_module(self) -> None:
            self._finalize_dynamic_globals()
            self._finalized = True

        def get_pointer_to_function(self, _name: str) -> int:
            return 0

    class Compiler(numba.core.compiler.Compiler):  # type: ignore[misc]
        """Compiles as usual, into a `Part`."""

        def __init__(self, typing_context: Any, target_context: Any, _library: Any, *more: Any) -> None:
            super().__init__(typing_context, target_context, Part(target_context.codegen(), "part"), *more)

    return quick_compiler.compiler(Part if as_part else None) if "quick compiler" in AVAILABLE else Compiler


def compile_once(dispatcher: Any) -> None:
    """Have a function that kernels call compiled for the types of its arguments, and not for values that they may have.

    Numba compiles a function that is called with a constant for this constant.
    """
    if "one signature" not in AVAILABLE:
        return
    original, general = dispatcher.get_call_template, numba.types.unliteral

    def get_call_template(args: Any, named: Any) -> Any:
        return original(tuple(map(general, args)), {name: general(kind) for name, kind in named.items()})

    dispatcher.get_call_template = get_call_template


def refuse_calls(dispatcher: Any, message: str) -> None:
    """Make a function that has no wrapper for Python raise TypeError where Python calls it."""
    if "bare helpers" not in AVAILABLE:
        return

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise TypeError(message)

    dispatcher._insert = lambda *_args, **_options: None  # the direct way from a call to its code
    dispatcher._compile_for_args = refuse


# How compiled code is kept on disk


def set_cache(dispatcher: Any, cache: Any) -> None:
    """Have the dispatcher ask `cache` before it compiles, and hand it what it has compiled."""
    if "cache" in AVAILABLE:
        dispatcher._cache = cache


def to_parts(compiled: Any) -> tuple[Any, set[str]] | None:
    """What of a compiled function can be pickled; None where its code holds addresses of this process."""
    if compiled.library.has_dynamic_globals:
        return None
    return compiled._reduce(), set(_DECLARED.findall(compiled.library.get_llvm_str()))


def from_parts(target_context: Any, parts: Any, symbols: set[str]) -> Any:
    """The compiled function that `to_parts` took apart; its code takes the symbols from elsewhere.

    To make all of Numba's symbols known takes a third of a second; most kernels need none but its memory manager's.
    """
    numba.core.runtime.rtsys.initialize(target_context)
    if any(llvmlite.binding.address_of_symbol(name) is None for name in symbols):
        target_context.refresh()
    return numba.core.compiler.CompileResult._rebuild(target_context, *parts)


# How machine code is called, and which pointers it has


def compile_worker(kernel: Any) -> None:
    """Compile a kernel for its arguments as a worker, or leave it to the first call."""
    if "calls by address" in AVAILABLE and WORKER not in kernel.overloads:
        kernel.compile(WORKER)


def code_address(kernel: Any) -> int:
    """The address of a kernel's machine code, for `call_worker`."""
    compile_worker(kernel)
    compiled = kernel.overloads[WORKER]
    address: int = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return address


@intrinsic
def call_worker(context, function, argument, k):  # type: ignore[no-untyped-def]
    """Call the kernel at an address, from a kernel."""

    def generate(context, builder, _signature, args):  # type: ignore[no-untyped-def]
        convention = context.call_conv
        kernel = builder.inttoptr(args[0], pointer_to(convention.get_function_type(types.none, WORKER)))
        convention.call_function(builder, kernel, types.none, WORKER, args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, *WORKER), generate


def fork_guard() -> Any:
    """The lock that Numba holds while it compiles; None where it cannot be had."""
    return numba.core.compiler_lock.global_compiler_lock if "fork guard" in AVAILABLE else None


def pointer_to(element: Any) -> Any:
    """The LLVM type of pointers to this type: up to llvmlite 0.44 they must say it, and one day they may not."""
    return element.as_pointer() if hasattr(element, "as_pointer") else ir.PointerType()
