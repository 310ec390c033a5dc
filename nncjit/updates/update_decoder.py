"""Updates to a model: checked one after the other, then applied tensor by tensor on as many threads as wanted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from nncjit.bits import Source, as_source
from nncjit.decoder.memory_budget import BATCH_WEIGHTS, MemoryBudget, in_batches, workspace_weights
from nncjit.encoder.pipeline import in_order
from nncjit.errors import OptionError, UpdateError
from nncjit.jit import threads as thread_counts
from nncjit.model import TensorInfo
from nncjit.option_values import Label, optional
from nncjit.progress import Progress
from nncjit.updates.chain_state import Array, ChainState, Parameter, value_digest
from nncjit.updates.model_sources import naming
from nncjit.updates.tensor_application import AppliedUnit, decode_together
from nncjit.updates.update_reader import OpenUpdate

Keep = Callable[[Parameter], Parameter]
"""Takes a tensor as it is in the end, from any thread, and gives it back in the form in which it is kept."""

BATCH = BATCH_WEIGHTS // 2
"""Weights of the tensors that are decoded together, unless one has more: what they are added to is in memory, too."""


@dataclass(slots=True)
class _Lineage:
    """A tensor through all states, from the base to the end; None where there is none."""

    stages: list[Parameter | None]
    units: list[AppliedUnit | None]
    """What leads to each stage; None where that is the stage before, or new."""
    digests: list[bytes] = field(default_factory=list)
    """Of each stage but the last: SHA-256 of its values."""
    base: Array | None = None
    """What was read of a base whose digest was not known: what is hashed is what is built on, whatever becomes of its
    file meanwhile."""
    last: Parameter | None = None
    """As it is kept."""

    @property
    def room(self) -> tuple[int, int]:
        """Weights of the tensor where it has most, and of the contexts with which it is decoded."""
        workspace = (workspace_weights(unit.opened) for unit in self.units if unit is not None)
        return self.size, max(workspace, default=0)

    @property
    def size(self) -> int:
        """Weights of the tensor where it has most."""
        return max(p.info.size for p in self.stages if p is not None)

    def advance(self, i: int) -> None:
        """Work out stage i, and the digest of the one before, which then is not needed any more."""
        before, unit = self.stages[i - 1], self.units[i]
        if before is None:
            self.digests.append(b"")
        elif i > 1 and _is_same(self.stages[i - 2], before):
            self.digests.append(self.digests[-1])
        elif before.value_sha256 is not None:
            self.digests.append(before.value_sha256)
        else:
            values = before.read()
            self.digests.append(value_digest(values))
            if i == 1:
                self.base = values
        if unit is not None:
            unit.after(self.base if before is not None and _is_same(self.stages[0], before) else None)
        if unit is not None or self.stages[i] is None:
            self.release(i)

    def end(self, keep: Keep) -> None:
        """Keep the last stage."""
        last = self.stages[-1]
        if last is not None:
            if _is_same(self.stages[-2], last):
                last = replace(last, value_sha256=self.digests[-1])
            base = self.base
            if base is not None and _is_same(self.stages[0], last):
                last = replace(last, read=lambda: base)
            self.last = keep(last)
        self.base = None
        self.release(len(self.stages))

    def release(self, stop: int) -> None:
        """Forget the values of the stages before one."""
        for unit in self.units[:stop]:
            if unit is not None:
                unit.release()


def _is_same(before: Parameter | None, after: Parameter) -> bool:
    """Whether an update left the values of a tensor alone."""
    return before is not None and before.read is after.read


@dataclass(frozen=True, slots=True)
class Application:
    """Updates that were found to fit a state, with nothing decoded yet. Their sources must stay open."""

    states: tuple[ChainState, ...]
    """The state before each update, in the form in which it builds on it, and the one after the last."""
    updates: tuple[OpenUpdate, ...]
    units: tuple[Mapping[str, AppliedUnit], ...]
    """What decodes the tensors of each update, by their names after it."""
    max_bytes: int | None = None

    @property
    def infos(self) -> list[TensorInfo]:
        """The tensors after the last update, tied ones too."""
        return self.states[-1].infos()

    def run(
        self, keep: Keep, *, goes_on: bool, threads: int | None = None, progress: Progress | None = None
    ) -> ChainState:
        """Apply the updates.

        Parameters
        ----------
        keep : callable
            Gets each tensor of the last state once, from any thread; it must not make anything of it visible before
            all is well.
        goes_on : bool
            Whether another update will build on the last state: `keep` then finds its levels.
        threads : int, optional
        progress : callable, optional

        Returns
        -------
        ChainState
            The last state, of what `keep` gave back.

        Raises
        ------
        BitstreamError
            A payload is damaged.
        UpdateError
            The values of the base are not those that an update builds on.
        """
        lineages = list(self._lineages())
        done, total = 0, sum(info.size for info in self.infos)
        for unit in self.units[-1].values():
            unit.wants_levels = goes_on
        kept: dict[str, Parameter] = {}
        with thread_counts.pool(threads) as pool:
            for some in in_batches(lineages, lambda lineage: lineage.room, BATCH):
                for i in range(1, len(self.states)):
                    units = [lineage.units[i] for lineage in some]
                    with naming(self.updates[i - 1].label):
                        decode_together([unit for unit in units if unit is not None], self.max_bytes, threads=threads)
                    _each(some, partial(_Lineage.advance, i=i), pool)
                _each(some, partial(_Lineage.end, keep=keep), pool)
                for parameter in (lineage.last for lineage in some if lineage.last is not None):
                    kept[parameter.name] = parameter
                    done += parameter.info.size
                    if progress is not None:
                        progress(done, total, parameter.name)
        self._check_bases(lineages)
        last = self.states[-1]
        return replace(last, parameters={name: kept[name] for name in last.parameters})

    def _lineages(self) -> Iterator[_Lineage]:
        """Every tensor of any state, once."""
        n = len(self.states)
        for i, state in enumerate(self.states):
            for name in state.parameters:
                if i and self._before(i, name) is not None:
                    continue
                names: list[str | None] = [None] * i + [name]
                for j in range(i + 1, n):
                    before = names[-1]
                    names.append(None if before is None else self._after(j, before))
                stages = [None if name is None else self.states[j].parameters[name] for j, name in enumerate(names)]
                units = [None if name is None or not j else self.units[j - 1].get(name) for j, name in enumerate(names)]
                yield _Lineage(stages, units)

    def _before(self, i: int, name: str) -> str | None:
        """What a tensor of state i was called in the state before; None where it is new."""
        said = self.updates[i - 1].metadata
        before = name if said is None else said.renamed.get(name, name)
        if said is not None and name not in said.renamed and name in said.renamed.values():
            return None  # a new tensor with the name of one that has another now
        gone = said is not None and before in said.gone
        return before if before in self.states[i - 1].parameters and not gone else None

    def _after(self, i: int, name: str) -> str | None:
        """What a tensor of state i - 1 is called in state i; None where it is gone."""
        said = self.updates[i - 1].metadata
        if said is None:
            return name
        if name in said.gone:
            return None
        return next((after for after, before in said.renamed.items() if before == name), name)

    def _check_bases(self, lineages: Sequence[_Lineage]) -> None:
        for i, update in enumerate(self.updates):
            infos, digests = {}, {}
            for lineage in lineages:
                parameter = lineage.stages[i]
                if parameter is not None:
                    infos[parameter.name], digests[parameter.name] = parameter.info, lineage.digests[i]
            update.check_base(infos, digests, self.states[i].tied)


def _each(lineages: Sequence[_Lineage], work: Callable[[_Lineage], None], pool: Executor | None) -> None:
    """Do something with lineages on the threads of a pool."""
    for _ in in_order(((one, one.size) for one in lineages), lambda one, _: work(one), pool):
        pass


def opened_updates(
    state: ChainState,
    updates: Sequence[Any],
    files: ExitStack,
    *,
    max_bytes: int | None = None,
    base_model_id: str | None = None,
) -> Application:
    """Open updates and check them against a state, and each against the one before it.

    Parameters
    ----------
    state : ChainState
    updates : sequence of bytes-like, path or binary file
    files : ExitStack
        Closes the sources.
    max_bytes : int, optional
        As in `nncjit.decode`.
    base_model_id : str, optional
        What the updates must say of their base.

    Raises
    ------
    BitstreamError, UpdateError
        An update is damaged, or does not fit.
    """
    optional("base_model_id", Label(), base_model_id)
    opened: list[OpenUpdate] = []
    states, units = [state], []
    for i, data in enumerate(updates):
        source: Source = files.enter_context(as_source(data))
        label = f"update {i + 1} of {len(updates)}" if len(updates) > 1 else "the update"
        if isinstance(data, str | os.PathLike):
            label = os.fspath(data)
        with naming(label):
            update = OpenUpdate.of(source, states[-1], label, base_model_id)
            update.charge(MemoryBudget(max_bytes, source.size))
            base = update.base_form(states[-1])
            try:
                after, decoding = update.after(base, max_bytes)
            except UpdateError as error:
                raise (error if opened else update.explained(base, error)) from None
        states[-1] = base
        opened.append(update)
        states.append(after)
        units.append(decoding)
    if not opened:
        raise OptionError("no updates are given")
    return Application(tuple(states), tuple(opened), tuple(units), max_bytes)
