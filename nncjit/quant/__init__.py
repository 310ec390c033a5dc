"""From numbers to integer levels and back (spec, sections 8 and 12): step sizes, uniform and trellis quantisers,
codebooks.

All quantisers take float32 values in scan order, 1-D and contiguous, and give int32 levels; ``value = step * level``.
They work in pieces of bounded size: no copy of a tensor is made but its levels. `workers`, where it is taken, is a
``concurrent.futures.Executor`` (threads) that shares the pieces; the levels never depend on it.

A number that is not finite has no level. Callers keep such tensors away from here; if one comes all the same, NaN is
taken as 0 and an infinity as the largest level.
"""
