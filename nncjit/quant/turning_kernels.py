"""Kernel that turns a matrix and divides its rows, tile by tile: steps down a column miss the cache."""

from nncjit.jit import helper, kernel, load_f32, smaller, store_f32

TILE_ROWS, TILE_COLUMNS = 64, 16


@helper
def _turn_tile(values, columns, turned, rows, factors, n_rows, n_columns, tile):
    """A tile of one value to a place; `values`, `turned` and `factors` are the addresses of its first ones."""
    for row in range(n_rows):
        source, target = values + 4 * row * columns, tile + 4 * row * TILE_COLUMNS
        for column in range(n_columns):
            store_f32(target, column, load_f32(source, column) / load_f32(factors, column))
    for column in range(n_columns):
        source, target = tile + 4 * column, turned + 4 * column * rows
        for row in range(n_rows):
            store_f32(target, row, load_f32(source, row * TILE_COLUMNS))


@kernel
def turn_and_divide(values, turned, factors, rows, columns, taps, tile):
    """turned[column][row] = values[row][column] / factors[column].

    values  : address of float32[rows][columns][taps]
    turned  : address of float32[columns][rows][taps], out
    factors : address of float32[columns]
    tile    : address of float32[TILE_ROWS][TILE_COLUMNS], scratch
    """
    if taps == 1:
        for top in range(0, rows, TILE_ROWS):
            n_rows = smaller(rows - top, TILE_ROWS)
            for left in range(0, columns, TILE_COLUMNS):
                n_columns = smaller(columns - left, TILE_COLUMNS)
                source, target = values + 4 * (top * columns + left), turned + 4 * (left * rows + top)
                _turn_tile(source, columns, target, rows, factors + 4 * left, n_rows, n_columns, tile)
        return
    for row in range(rows):
        for column in range(columns):
            factor = load_f32(factors, column)
            source, target = values + 4 * taps * (row * columns + column), turned + 4 * taps * (column * rows + row)
            for tap in range(taps):
                store_f32(target, tap, load_f32(source, tap) / factor)
