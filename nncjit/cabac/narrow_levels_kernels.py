"""Levels of 32 bits to fewer, and back."""

from nncjit.jit import kernel, load_i8, load_i16, load_i32, store_8, store_16, store_32


def _narrowing(bits, store):
    """The kernel that makes levels of so many bits, with the function that stores one."""
    least, most = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def narrow_to(levels, n, narrow):
        """narrow = the levels that fit, 0 for the others; returns the number of these.

        levels : address of int32[n]
        narrow : address of n integers of fewer bits    out
        """
        others = 0
        for i in range(n):
            level = load_i32(levels, i)
            fits = least <= level <= most
            store(narrow, i, level if fits else 0)
            others += 0 if fits else 1
        return others

    return kernel(narrow_to, name=f"narrow_to_{bits}")


def _widening(bits, load):
    """The kernel that makes levels of these again, with the function that loads one."""

    def widen(narrow, n, levels):
        """levels = narrow.

        narrow : address of n integers of fewer bits
        levels : address of int32[n]    out
        """
        for i in range(n):
            store_32(levels, i, load(narrow, i))

    return kernel(widen, name=f"widen_{bits}")


narrow_to_8, narrow_to_16 = _narrowing(8, store_8), _narrowing(16, store_16)
widen_8, widen_16 = _widening(8, load_i8), _widening(16, load_i16)
