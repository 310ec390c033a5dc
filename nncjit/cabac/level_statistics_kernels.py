"""What the encoder asks about levels before it codes them: which rows are empty, and how large the levels are."""

from nncjit.cabac.encoder_records import CELL, view_cell
from nncjit.jit import helper, kernel, leading_zeros, load_i32, load_u8, smaller, store_8

CELL_BYTES = CELL.itemsize


@helper
def _count_sizes(levels, cell):
    """`count_sizes` for one cell."""
    nonzeros, log_sizes = 0, 0
    for i in range(cell.start, cell.stop):
        magnitude = abs(load_i32(levels, i))
        top = 63 - leading_zeros(magnitude | 1)
        some = smaller(magnitude, 1)
        nonzeros += some
        log_sizes += some * ((top << 8) + ((magnitude << 8) >> top))
    cell.nonzeros = nonzeros
    cell.log_sizes = log_sizes


@kernel
def count_sizes(levels, cells, n):
    """Fill in what the cells say of their levels.

    levels : address of int32[any]
    cells  : address of CELL[n], whose elements are inside the levels
    """
    for k in range(n):
        _count_sizes(levels, view_cell(cells + CELL_BYTES * k))


@kernel
def mark_nonzero_rows(levels, rows, width, block_rows, block_columns, marks):
    """Set marks[row] to 1 for each row of the matrix with a level that is not zero; returns the number of such levels.

    levels : address of int32[rows * width] in coding order
    block_rows, block_columns : int  sides of a block, >= 1; the whole matrix without block scan
    marks  : address of uint8[rows], all zero
    """
    place, total = levels, 0
    for top in range(0, rows, block_rows):
        bottom = smaller(top + block_rows, rows)
        for left in range(0, width, block_columns):
            count = smaller(block_columns, width - left)
            for row in range(top, bottom):
                found = 0
                for i in range(count):
                    found += 1 if load_i32(place, i) != 0 else 0
                store_8(marks, row, load_u8(marks, row) | smaller(found, 1))
                total += found
                place += 4 * count
    return total
