"""Statistics in the making: the sums of all weights of a model, to be filled, saved, and gone on with."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nncjit.calibrate.alike_layers import leaning, leaning_on_each_other, mean_of_a_token
from nncjit.calibrate.checked_inputs import WIDEST, floats, weight
from nncjit.calibrate.checked_inputs import count as counted
from nncjit.calibrate.input_sums import InputSums, damped
from nncjit.calibrate.statistics_file import Arrays, Statistics, write
from nncjit.calibrate.statistics_record import WIDEST_BLOCK, TensorRecord
from nncjit.calibrate.table_sums import TableSums
from nncjit.calibrate.weight_sums import weight_sums
from nncjit.errors import ModelError, NncWarning, OptionError
from nncjit.option_values import Label, check_flags, checked, shown

Array = NDArray[Any]


class Calibration:
    """Collects the statistics of a model. Not safe for several threads: give each its own, and `merge` them.

    Parameters
    ----------
    loss : str
        What the loss is, in words, for the file.
    widest_block : int
        Most inputs that one block of a metric spans: memory of a layer is this times its inputs, 8 bytes each while
        collecting. 0 keeps only diagonals.

    Attributes
    ----------
    is_guess : bool
        Whether samples are unlike those in use; may be set. The shapes of metrics count then, not how they compare.
    samples : int
    output_power : float
        Sum over the samples of |y|^2, in the loss's own metric.
    """

    def __init__(self, *, loss: str = "squared error of the output", widest_block: int = WIDEST_BLOCK) -> None:
        self.loss: str = checked("loss", Label(), loss)
        self.widest_block: int = checked("widest_block", WIDEST, widest_block)
        self.is_guess = False
        self.samples = 0
        self.output_power = 0.0
        self._inputs: dict[str, InputSums] = {}
        self._tables: dict[str, TableSums] = {}
        self._unreached: dict[str, tuple[int, ...]] = {}
        self._alike: list[tuple[str, ...]] = []
        self._sums: dict[str, Array] = {}

    def linear(self, name: str, shape: tuple[int, ...], *, axis: int = 1, apart: bool = False) -> InputSums:
        """The sums of a linear layer, made when first asked for.

        Parameters
        ----------
        name : str
            Of the weight, as in the model file.
        shape : tuple of int
            Of the weight.
        axis : int
            Its dimension of inputs: 1 for [out, in], 0 for [in, out]. Of layers that are stacked in one tensor: 2 for
            [layers, out, in], 1 for [layers, in, out].
        apart : bool
            Whether stacked layers have a metric each, and not the mean in common. It takes as many times the memory.

        Raises
        ------
        ModelError
            The weight is known by another shape or kind.
        """
        check_flags(apart=apart)
        return self._input_sums(InputSums.of(name, "linear", shape, axis=axis, apart=apart, widest=self.widest_block))

    def convolution(self, name: str, shape: tuple[int, ...], *, groups: int = 1, axis: int = 1) -> InputSums:
        """The sums of a convolution [out, channels / groups, *kernel], or with axis 0 [channels, out / groups, ...].

        Raises
        ------
        ModelError
            The weight is known by another shape or kind.
        """
        sums = InputSums.of(name, "convolution", shape, axis=axis, groups=groups, widest=self.widest_block)
        return self._input_sums(sums)

    def rows(self, name: str, shape: tuple[int, ...]) -> InputSums:
        """The sums of a vector (a bias, the gains of a norm), or of a weight of which no more is known.

        For the gradient g of a probe of the output with respect to a vector, float[n], a sample is
        ``add(g[None], [[1.0]])``; of other weights, g is the root mean square of the gradient in each row.

        Raises
        ------
        ModelError
            The weight is known by another shape or kind.
        """
        return self._input_sums(InputSums.of(name, "rows", shape, axis=0, widest=0))

    def table(self, name: str, shape: tuple[int, ...], *, positions: bool = False) -> TableSums:
        """The sums of a table [rows, columns]; see `TableSums` for `positions`.

        Raises
        ------
        ModelError
            The weight is known by another shape or kind.
        """
        check_flags(positions=positions)
        fresh = TableSums.of(name, shape, positions=positions, widest=self.widest_block)
        sums = self._tables.setdefault(name, fresh)
        self._check_same(sums.record, fresh.record, other=self._inputs.get(name))
        return sums

    def alike(self, names: Sequence[str]) -> None:
        """Say that linear layers of one shape are alike, as the experts of one mixture are: the fewer tokens one of
        them saw, the more its metric leans on those of the others. One that no sample reached still has none.
        """
        self._alike.append(tuple(names))

    def unreached(self, name: str, shape: tuple[int, ...]) -> None:
        """Say that no sample has reached a weight of the model so far; forgotten where sums of it are collected."""
        name, shape = weight(name, shape)
        self._unreached[name] = shape

    def values(self, name: str, values: Any) -> None:
        """Say what the values of a weight are, so that the encoder can tell when it is given those of another model.

        Parameters
        ----------
        name : str
        values : float array
            Of the shape that its statistics are collected for.

        Raises
        ------
        ModelError
            They are no numbers.
        """
        array = floats(f"{name}: its values", values)
        weight(name, array.shape)
        if np.isfinite(array).all():
            self._sums[name] = weight_sums(array)

    def _input_sums(self, fresh: InputSums) -> InputSums:
        sums = self._inputs.setdefault(fresh.record.name, fresh)
        self._check_same(sums.record, fresh.record, other=self._tables.get(fresh.record.name))
        return sums

    def _check_same(self, known: TensorRecord, asked: TensorRecord, other: object) -> None:
        if other is not None or known != asked:
            raise ModelError(f"{asked.name}: is collected for already, as another kind of weight or of another shape")

    def end_samples(self, count: int = 1, *, output_power: float = 0.0) -> None:
        """Say that so many samples were run, and what |y|^2 they have in all. A target `loss` is relative to that."""
        number, power = counted("count", count), floats("the outputs' power", output_power, np.float64)
        if power.ndim or not 0 <= power < np.inf:
            raise ModelError(f"the outputs' power is {shown(output_power)}, must be a finite number of 0 or more")
        self.samples += number
        self.output_power += float(power)

    def merge(self, earlier: Statistics) -> None:
        """Go on from statistics of the same model: nothing is told apart that was collected before.

        Raises
        ------
        ModelError
            They are of another model, or damaged.
        """
        if not isinstance(earlier, Statistics):
            raise OptionError(f"earlier is {shown(earlier)}, must be statistics")
        for name in earlier:
            found = earlier[name]
            record, positions = found.record, found.positions
            sums = found.sums()
            if sums is not None:
                self._sums.setdefault(name, sums)
            if not record.samples:
                self.unreached(name, record.shape)
            elif record.kind == "table" or positions:
                table = self.table(name, record.shape, positions=positions)
                self._check_blocks(record, table.record)
                table.resume(record, found.metric(), found.energy(), found.uses(), earlier.samples)
            else:
                fresh = replace(record, samples=0, tokens=0, ratio=1.0)
                self._input_sums(InputSums(fresh)).resume(record, found.metric(), earlier.samples)
        self.is_guess = self.is_guess or earlier.is_guess
        self.end_samples(earlier.samples, output_power=earlier.output_power * earlier.samples)

    def _check_blocks(self, found: TensorRecord, mine: TensorRecord) -> None:
        if found.block != mine.block:
            raise ModelError(f"{found.name}: was collected in blocks of {found.block} inputs, not {mine.block}")

    def arrays(self) -> Iterator[Arrays]:
        """What the file will hold, weight by weight."""
        tokens: dict[str, Array | None] = {}
        for names in self._alike:
            known = (self._inputs[name].finish(self.samples) for name in names if name in self._inputs)
            tokens |= dict.fromkeys(names, mean_of_a_token(known))
        for name, sums in self._inputs.items():
            record, metric = sums.finish(self.samples)
            if record.apart:
                metric = leaning_on_each_other(record, metric, sums.tokens_by_layer)
            metric = leaning(record, metric, tokens.get(name))
            yield Arrays(record, damped(metric, record) if self.is_guess else metric, sums=self._sums.get(name))
            self._tell(name, sums)
        for name, table in self._tables.items():
            with np.errstate(over="ignore"):  # what becomes infinite is told when it is stored
                energy = (table.energy / max(self.samples, 1)).astype(np.float32)
            yield Arrays(*table.finish(self.samples), energy, table.uses, table.positions, self._sums.get(name))
            self._tell(name, table)
        for name, shape in self._unreached.items():
            if name not in self._inputs and name not in self._tables:
                yield Arrays(*InputSums.of(name, "rows", shape, axis=0, widest=0).finish(self.samples))

    def _tell(self, name: str, sums: InputSums | TableSums) -> None:
        if sums.dropped:
            said = f"{name}: {sums.dropped} samples had numbers that are not finite, and were left out"
            warnings.warn(said, NncWarning, stacklevel=3)

    def save(self, path: str | os.PathLike[str], *, precision: str = "float16") -> None:
        """Write the statistics file; an old one stays as it is until the new one is complete.

        Parameters
        ----------
        path : path
            Ends in ".safetensors".
        precision : {"float16", "float32"}
            Of the metrics' correlations. Their diagonals are always float32.

        Raises
        ------
        ModelError
            Nothing was collected, sums are not finite, or the file cannot be written.
        OptionError
            Another precision or suffix.
        """
        write(path, list(self.arrays()), self._facts(), precision)

    def statistics(self) -> Statistics:
        """What was collected so far, for `nncjit.encode`, without a file."""
        return Statistics.of(list(self.arrays()), self._facts())

    def _facts(self) -> Mapping[str, Any]:
        if not self.samples:
            raise ModelError("no samples were collected")
        power = self.output_power / self.samples
        facts = {"loss": self.loss, "samples": self.samples, "output_power": power}
        return {**facts, "guess": True} if self.is_guess else facts
