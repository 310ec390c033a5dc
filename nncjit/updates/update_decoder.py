"""Updates to a model: checked one after the other, then applied tensor by tensor on as many threads as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from nncjit.bits import Source, as_source
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.encoder.pipeline import in_order
from nncjit.errors import BitstreamError, OptionError
from nncjit.jit import threads as thread_counts
from nncjit.model import TensorInfo
from nncjit.progress import Progress
from nncjit.updates.chain_state import ChainState, Parameter, value_digest
from nncjit.updates.update_reader import OpenUpdate

Keep = Callable[[Parameter], Parameter]
"""Takes a tensor as it is in the end, from any thread, and gives it back in the form in which it is kept."""


@dataclass(slots=True)
class _Lineage:
    """A tensor through all states, from the base to the end; None where there is none."""

    stages: list[Parameter | None]
    digests: list[bytes] = field(default_factory=list)
    last: Parameter | None = None

    @property
    def size(self) -> int:
        return max(p.info.size for p in self.stages if p is not None)


@dataclass(frozen=True, slots=True)
class Application:
    """Updates that were found to fit a state, with nothing decoded yet. Their sources must stay open."""

    states: tuple[ChainState, ...]
    """The state before each update, in the form in which it builds on it, and the one after the last."""
    updates: tuple[OpenUpdate, ...]
    bytes: int
    """Of the updates."""

    @property
    def infos(self) -> list[TensorInfo]:
        """The tensors after the last update, tied ones too."""
        return self.states[-1].infos()

    @property
    def texts(self) -> Mapping[str, str]:
        """The metadata of the model after the last update."""
        return self.states[-1].texts

    def run(self, keep: Keep, *, threads: int | None = None, progress: Progress | None = None) -> ChainState:
        """Apply the updates.

        Parameters
        ----------
        keep : callable
            Gets each tensor of the last state once, from any thread; it must not make anything of it visible before
            all is well.
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

        def work(lineage: _Lineage, _: Executor | None) -> _Lineage:
            self._work(lineage, keep)
            return lineage

        kept: dict[str, Parameter] = {}
        with thread_counts.pool(threads) as pool:
            for lineage in in_order(((one, one.size) for one in lineages), work, pool):
                if lineage.last is None:
                    continue
                kept[lineage.last.name] = lineage.last
                done += lineage.last.info.size
                if progress is not None:
                    progress(done, total, lineage.last.name)
        self._check_bases(lineages)
        last = self.states[-1]
        return replace(last, parameters={name: kept[name] for name in last.parameters})

    def _work(self, lineage: _Lineage, keep: Keep) -> None:
        """Digests of all states that an update builds on, and the last state."""
        before: Parameter | None = None
        for parameter in lineage.stages[:-1]:
            if parameter is None:
                lineage.digests.append(b"")
            elif before is not None and before.read is parameter.read:
                lineage.digests.append(lineage.digests[-1])
            else:
                lineage.digests.append(parameter.value_sha256 or value_digest(parameter.read()))
            before = parameter
        last = lineage.stages[-1]
        if last is not None:
            if before is not None and before.read is last.read:
                last = replace(last, value_sha256=lineage.digests[-1])
            lineage.last = keep(last)
        for release in self._releases(lineage):
            release()

    @staticmethod
    def _releases(lineage: _Lineage) -> Iterator[Callable[[], None]]:
        for parameter in lineage.stages:
            if parameter is not None and parameter.release is not None:
                yield parameter.release

    def _lineages(self) -> Iterator[_Lineage]:
        """Every tensor of any state, once."""
        n = len(self.states)
        for i, state in enumerate(self.states):
            for name in state.parameters:
                if i and self._before(i, name) is not None:
                    continue
                stages: list[Parameter | None] = [None] * i + [state.parameters[name]]
                current: str | None = name
                for j in range(i + 1, n):
                    current = None if current is None else self._after(j, current)
                    stages.append(None if current is None else self.states[j].parameters[current])
                yield _Lineage(stages)

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


def opened_updates(
    state: ChainState,
    updates: Sequence[Any],
    files: ExitStack,
    *,
    threads: int | None = None,
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
    threads, max_bytes : int, optional
        As in `nncjit.decode`.
    base_model_id : str, optional
        What the updates must say of their base.

    Raises
    ------
    BitstreamError, UpdateError
        An update is damaged, or does not fit.
    """
    opened, states, size = [], [state], 0
    for i, data in enumerate(updates):
        source: Source = files.enter_context(as_source(data))
        size += source.size
        try:
            update = OpenUpdate.of(source, states[-1])
            update.charge(MemoryBudget(max_bytes, source.size))
            base = update.base_form(states[-1])
            after = update.after(base, base_model_id=base_model_id, threads=threads, max_bytes=max_bytes)
        except BitstreamError as error:
            raise error if len(updates) == 1 else error.at(path=f"update {i + 1} of {len(updates)}") from None
        states[-1] = base
        opened.append(update)
        states.append(after)
    if not opened:
        raise OptionError("no updates are given")
    return Application(tuple(states), tuple(opened), size)
