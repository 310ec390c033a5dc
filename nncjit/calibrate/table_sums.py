"""Sums over samples of which the metric of a table is made: rows that are looked up by number, as word embeddings are.

With s_t the gradients of a probe of the output at row t, added up over its places in the sample, a change e_t of the
row costs half the mean of (s_t . e_t)^2. Too few samples see a row for a matrix of its own, so all rows share

    M = mean sum_t s_t s_t' ,     energy_t = mean |s_t|^2 ,     count_t = samples in which t occurs

and the encoder weighs row t by its share f_t of the energy: loss about half sum_t f_t e_t M e_t'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.calibrate.checked_inputs import WIDEST, floats, weight, whole_array
from nncjit.calibrate.input_sums import counted
from nncjit.calibrate.statistics_record import WIDEST_BLOCK, TensorRecord, block_size
from nncjit.errors import ModelError
from nncjit.option_values import checked

Array = NDArray[Any]


class TableSums:
    """Sums of one table [rows, columns].

    Parameters
    ----------
    record : TensorRecord
        Of kind "table", nothing counted yet.
    positions : bool
        The rows stand for positions, or for anything else whose use in the samples says nothing of its use later: all
        are to count alike, as much as a row counts in a sample that uses it. The statistics are then those of a linear
        layer over the columns.

    Attributes
    ----------
    metric : float32[blocks, n, n], or [columns] where only the diagonal is kept
        Sum of s_t s_t'.
    energy : float64[rows]
    uses : int64[rows]
        The sums; an adapter with a faster way to them adds to these itself, and calls `count`.
    """

    def __init__(self, record: TensorRecord, *, positions: bool = False) -> None:
        self.record, self.positions = record, positions
        self.metric: Array = np.zeros(record.metric_shape if record.block else (record.inputs,), np.float32)
        self.energy = np.zeros(record.outputs, np.float64)
        self.uses = np.zeros(record.outputs, np.int64)
        self.samples = self.tokens = self.dropped = 0

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], *, positions: bool = False, widest: int = WIDEST_BLOCK) -> TableSums:
        """Empty sums of a table. `widest`: most columns of a block; 0 keeps only the diagonal."""
        name, shape = weight(name, shape)
        widest = checked("widest", WIDEST, widest)
        record = TensorRecord(name=name, kind="table", shape=shape)
        block = block_size(record.inputs, 1, widest) if widest else 0
        return cls(replace(record, block=block), positions=positions)

    def add(self, ids: Array, g: Array) -> None:
        """Add one sample; one whose numbers are not finite is left out and counted in `dropped`.

        Parameters
        ----------
        ids : int[T]
            The rows that were looked up.
        g : float[T, columns] or [probes, T, columns]
            Gradients of the probes at what was found there.

        Raises
        ------
        ModelError
            The shapes do not fit the table, or a row is not in it.
        """
        record = self.record
        ids, g = whole_array(f"{record.name}: ids", ids), floats(f"{record.name}: gradients", g)
        g = g[None] if g.ndim == 2 else g
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or g.ndim != 3 or g.shape[1:] != (len(ids), record.inputs):
            raise ModelError(
                f"{record.name}: a sample has ids {ids.dtype}{list(ids.shape)} and gradients {list(g.shape)}, "
                f"wanted are integers [T] and [T, {record.inputs}]"
            )
        if ids.size and not 0 <= ids.min() <= ids.max() < record.outputs:
            raise ModelError(f"{record.name}: a sample looks up a row outside 0..{record.outputs - 1}")
        if not np.isfinite(g).all():
            self.dropped += 1
            return
        rows, place = np.unique(ids, return_inverse=True)
        for probe in g:
            sums = np.zeros((len(rows), record.inputs), np.float32)
            np.add.at(sums, place, probe)
            self._add_sums(rows, sums)
        self.uses[rows] += 1
        self.count(1, len(ids))

    def count(self, samples: int, tokens: int) -> None:
        """Say that so many samples, of so many tokens in all, were added to the sums."""
        self.samples += samples
        self.tokens += tokens

    @np.errstate(over="ignore", invalid="ignore")  # told when the sums are asked for
    def _add_sums(self, rows: Array, sums: Array) -> None:
        self.energy[rows] += np.square(sums, dtype=np.float64).sum(1)
        if not self.record.block:
            self.metric += np.square(sums).sum(0)
            return
        for k in range(self.record.blocks):
            part = sums[:, k * self.record.block : (k + 1) * self.record.block]
            self.metric[k, : part.shape[1], : part.shape[1]] += part.T @ part

    def finish(self, all_samples: int) -> tuple[TensorRecord, Array]:
        """The record and the metric M. With `positions`, M is that of one row in a sample that uses it."""
        record = self.record
        if not self.positions:
            return counted(record, self.samples, self.tokens), self.metric / np.float32(max(all_samples, 1))
        linear = TensorRecord(name=record.name, kind="linear", shape=record.shape, block=record.block)
        metric = self.metric / np.float32(max(int(self.uses.sum()), 1))
        return counted(linear, self.samples, self.tokens), metric

    def resume(self, record: TensorRecord, metric: Array, energy: Array, uses: Array, all_samples: int) -> None:
        """Start from what was saved earlier."""
        rows = int(uses.sum()) if self.positions else all_samples
        self.metric += metric * np.float32(rows)
        self.energy += energy * all_samples
        self.uses += uses
        self.count(record.samples, record.tokens)
