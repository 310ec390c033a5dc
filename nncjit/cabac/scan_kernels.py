"""Kernel that reorders a matrix between raster and block order (spec, section 7)."""

from nncjit.jit import helper, kernel, load_i64, load_u8, smaller, store_8, store_64


@helper
def _copy(source, target, count):
    """Copy `count` bytes from address `source` to address `target`."""
    words = count >> 3
    for k in range(words):
        store_64(target, k, load_i64(source, k))
    for k in range(words << 3, count):
        store_8(target, k, load_u8(source, k))


@kernel
def reorder(raster, flat, first_row, stop_row, row_bytes, side, side_bytes, to_flat):
    """Copy whole block rows from raster to block order, or back.

    raster, flat : int  addresses of the same matrix in the two orders; both contiguous, of at least stop_row *
    row_bytes bytes
    first_row, stop_row : int  0 <= first_row <= stop_row <= rows; first_row is a multiple of side
    row_bytes  : int  bytes of one row of the matrix
    side, side_bytes : int  rows of a block, and bytes of one of its rows
    to_flat    : int  1: raster to flat, 0: flat to raster

    A block row fills the same range of bytes in both orders, and inside it the widths of the pieces copied add up to
    row_bytes in each row, so that no copy leaves the range [first_row * row_bytes, stop_row * row_bytes).
    """
    place = flat + first_row * row_bytes
    for top in range(first_row, stop_row, side):
        bottom = smaller(top + side, stop_row)
        for left in range(0, row_bytes, side_bytes):
            count = smaller(side_bytes, row_bytes - left)
            for row in range(top, bottom):
                cell = raster + row * row_bytes + left
                if to_flat:
                    _copy(cell, place, count)
                else:
                    _copy(place, cell, count)
                place += count
