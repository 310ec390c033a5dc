"""A new model to an update: tensor by tensor, on as many threads as wanted, the bytes whatever their number."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import BinaryIO

from nncjit import dtypes
from nncjit.cabac.lane_encoder import RowQueue
from nncjit.encoder.default_steps import is_matrix
from nncjit.encoder.execution import Execution
from nncjit.encoder.model_encoder import EXECUTION
from nncjit.encoder.pipeline import bundled, in_order
from nncjit.encoder.plan import Plan
from nncjit.encoder.reduction import zeros_of_model
from nncjit.encoder.targets import decibels
from nncjit.encoder.unit_payloads import in_memory
from nncjit.encoder.unkept_options import named
from nncjit.errors import NncWarning
from nncjit.jit import threads as thread_counts
from nncjit.model import Model, Tensor
from nncjit.stream.metadata_unit import ModelMetadata
from nncjit.stream.reports import TensorReport, tied_row
from nncjit.stream.update_metadata import DIGEST_BYTES, TAG_BYTES, UpdateMetadata
from nncjit.updates.chain_state import ChainState, Parameter, after_unit, model_digest, tags_of, value_digest
from nncjit.updates.differences_together import Pair, coded_together
from nncjit.updates.idle_update_options import warn_of_idle_in_update
from nncjit.updates.size_search import to_size
from nncjit.updates.structure import Structure, default_order, names_by_index
from nncjit.updates.tensor_application import decoded_alone
from nncjit.updates.tensor_coding import MOST_MISSED, TensorCoder
from nncjit.updates.tensor_update import Received, TensorUpdate, are_comparable
from nncjit.updates.update_options import UpdateOptions
from nncjit.updates.update_writer import Node, UpdateWriter, parameter_set

Keep = Callable[[Parameter], Parameter]
"""Takes a tensor as it is after an update, and gives it back in the form in which it is kept."""


@dataclass(frozen=True, slots=True)
class EncodedUpdate:
    """What came of a new model."""

    size: int
    """Bytes of the update."""
    tensors: tuple[TensorReport, ...]
    snr: float | None
    """Of the model that the receiver will have, over all lossy tensors, dB."""
    seconds: float
    threads: int
    state: ChainState
    """What the receiver will have, where it was to be kept; else the state before."""


def encode_update(
    state: ChainState,
    new: Model,
    file: BinaryIO,
    options: UpdateOptions,
    execution: Execution = EXECUTION,
    keep: Keep | None = None,
) -> EncodedUpdate:
    """Write the update that leads from the state of a chain to a new model.

    Parameters
    ----------
    state : ChainState
        What the receiver has. It is not changed.
    new : Model
    file : binary file
        Open for reading and writing, seekable.
    options : UpdateOptions
    execution : Execution
    keep : callable, optional
        Where what the receiver will have is to be kept for the next update.

    Raises
    ------
    ModelError
        A renaming does not fit.
    OptionError
        An option does not fit a tensor.
    """
    started = time.perf_counter()
    structure = Structure.of(state, new, options.renamed)
    if new.graphs and state.graphs and new.graphs != state.graphs:
        reason = "the new model has another graph than the base, whose own stays: an update holds tensors only"
        warnings.warn(reason, NncWarning, stacklevel=3)
    with thread_counts.pool(execution.threads) as pool:
        job = UpdateJob(state, new, structure, options, execution, pool, keep)
        plan = job.plan
        warn_of_idle_in_update(new, plan, structure, options, in_session=keep is not None)
        goal = options.target_bytes(sum(t.size for t in new), sum(t.nbytes for t in new))
        written = job.run(plan, file) if goal is None else to_size(job, plan, file, goal)
        after = job.after(written) if keep is not None else state
    unsaid = [] if options.carry or goal is not None else _unsaid(written)
    if unsaid:
        said = f"{named(unsaid)}: nothing of the change is left, the steps are too coarse for it"
        warnings.warn(said, NncWarning, stacklevel=3)
    snr = decibels(written.power, written.error) if written.power else None
    rows = tuple(_rows(new, written))
    seconds = time.perf_counter() - started
    return EncodedUpdate(written.size, rows, snr, seconds, thread_counts.count(execution.threads), after)


@dataclass(slots=True)
class Written:
    """What one encoding came to."""

    tensors: list[TensorUpdate] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    """Of the base's tensors, under their names in the base."""
    size: int = 0
    overhead: int = 0
    """Bytes besides the tensors' units."""
    kept: dict[str, Parameter] = field(default_factory=dict)
    """The tensors as the receiver will have them, where they are kept."""

    @property
    def power(self) -> float:
        return sum(t.power for t in self.tensors)

    @property
    def error(self) -> float:
        return sum(t.error for t in self.tensors)


@dataclass(frozen=True)
class UpdateJob:
    """Encodings of one new model."""

    state: ChainState
    new: Model
    structure: Structure
    options: UpdateOptions
    execution: Execution
    pool: Executor | None
    keep: Keep | None

    @cached_property
    def plan(self) -> Plan:
        """The plan; zeros that are a share of the model are counted over the differences."""
        plan = Plan.of((t.info for t in self.new), self.options.encoder)
        differences = (
            Model([self._difference(t, plan) for t in self._stored()]) if self._ranks_the_model() else Model([])
        )
        return replace(plan, zero_counts=zeros_of_model(differences, plan))

    def coder(self, plan: Plan) -> TensorCoder:
        """What codes the tensors by a plan."""
        return TensorCoder(plan, self.options, self._spread)

    @cached_property
    def _spread(self) -> float:
        """Root mean square of what matrices have to say, where they shall have one step; else 0."""
        if not self.options.one_step:
            return 0.0
        coder = TensorCoder(self.plan, self.options)
        found = in_order(
            ((tensor, tensor.size) for tensor in self._stored()),
            lambda tensor, _: coder.energy_of_difference(tensor, self.structure.origins[tensor.name]),
            self.pool,
        )
        energies, sizes = zip(*found, strict=True) if self._stored() else ((), ())
        return math.sqrt(math.fsum(energies) / max(sum(sizes), 1))

    def _ranks_the_model(self) -> bool:
        encoder = self.options.encoder
        return encoder.stream.zeros_scope == "model" and encoder.reducing.zeros > 0.0

    def _difference(self, tensor: Tensor, plan: Plan) -> Tensor:
        origin = self.structure.origins[tensor.name]
        if origin is None or not are_comparable(tensor.info, origin) or dtypes.find(tensor.dtype).kind != "f":
            return replace(tensor, shape=(), dtype="int8", part=None)  # takes no part

        coder = TensorCoder(plan, self.options)
        return replace(tensor, dtype="float32", read=lambda: coder.difference(tensor, origin), part=None)

    def _stored(self) -> list[Tensor]:
        return [tensor for tensor in self.new if tensor.same_as is None]

    def run(self, plan: Plan, file: BinaryIO) -> Written:
        """One encoding."""
        file.seek(0)
        file.truncate()
        coder = self.coder(plan)
        written, names = Written(), self._names_by_index()
        writer = UpdateWriter(
            file,
            parameter_set(
                plan.density,
                base_model_id=self.options.base_model_id,
                predict=self.options.predict,
                indexed=bool(names),
            ),
            self._metadata(written.digests),
            names,
        )
        done, total = 0, sum(t.size for t in self.new)
        for update, digest, kept in self._coded(coder):
            written.tensors.append(update.without_arrays())
            if update.origin is not None:
                written.digests[update.origin.name] = digest
            if kept is not None:
                written.kept[kept.name] = kept
            if update.unit is not None:
                written.sizes[update.info.name] = writer.put(update.unit, self._node(update))
            done += update.info.size
            if self.execution.progress is not None:
                self.execution.progress(done, total, update.info.name)
        for name in self.structure.gone:
            gone = self.state.parameters[name]
            written.digests[name] = gone.value_sha256 or value_digest(gone.read())
        written.size = writer.finish(self._metadata(written.digests))
        written.overhead = written.size - sum(written.sizes.values())
        return written

    def _coded(self, coder: TensorCoder) -> Iterator[tuple[TensorUpdate, bytes, Parameter | None]]:
        """All tensors in order, with the digests of what they come from, and what is kept of them."""
        numbers = self._numbers

        def work(bundle: list[Tensor], workers: Executor | None) -> list[tuple[TensorUpdate, bytes, Parameter | None]]:
            queue = RowQueue(workers)
            pairs = [self._pair(tensor) for tensor in bundle]  # what is hashed is what is built on
            digests = [_digest_of(pair) for pair in pairs]
            together = coded_together(pairs, coder)
            begun = [
                None if k in together else coder.begin(tensor, origin, held, workers, queue)
                for k, (tensor, origin, held) in enumerate(pairs)
            ]
            del pairs
            return [
                finished(digests[k], together.pop(k) if finish is None else finish()) for k, finish in enumerate(begun)
            ]

        def finished(digest: bytes, update: TensorUpdate) -> tuple[TensorUpdate, bytes, Parameter | None]:
            kept = None
            if self.keep is not None:
                kept = self.keep(self._after(update, numbers[update.info.name], coder.plan.density))
            return update if update.received is None else update.without_received(), digest, kept

        for coded in in_order(bundled((tensor, tensor.size) for tensor in self._stored()), work, self.pool):
            yield from coded

    def _pair(self, tensor: Tensor) -> Pair:
        origin = self.structure.origins[tensor.name]
        return Pair(tensor, origin, None if origin is None else origin.read())

    def _node(self, update: TensorUpdate) -> Node:
        origin = update.origin
        number = self._numbers[update.info.name]
        differs = update.tool in ("difference", "exact difference")
        depth = 0 if origin is None else origin.depth + 1
        return Node(self.options.device, number, depth, origin if differs else None, self.options.parents)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """parameter_id of each tensor."""
        numbers, free = {}, self.state.next_parameter
        for name, origin in self.structure.origins.items():
            numbers[name] = free if origin is None else origin.number
            free += origin is None
        return numbers

    def _names_by_index(self) -> tuple[str, ...]:
        """The names for which a compact update has indices; new tensors have none, and then none has."""
        if not self.options.compact or None in self.structure.origins.values():
            return ()
        return names_by_index(self.state, self.structure.renamed)

    def _metadata(self, digests: dict[str, bytes]) -> ModelMetadata:
        state, structure = self.state, self.structure
        complete = len(digests) == len(state.parameters)
        infos = {name: p.info for name, p in state.parameters.items()}
        tied = {t.name: t.same_as for t in self.new if t.same_as is not None}
        tags = b""
        if not self.options.compact:
            tags = tags_of(infos, digests) if complete else bytes(TAG_BYTES * len(infos))
        update = UpdateMetadata(
            number=state.number + 1,
            base=model_digest(infos, digests, state.tied) if complete else bytes(DIGEST_BYTES),
            tags=tags,
            types=() if self.options.compact else UpdateMetadata.runs_of(infos[name].dtype for name in sorted(infos)),
            renamed=structure.renamed,
            gone=structure.gone,
            reshaped=structure.reshaped,
            texts=None if dict(self.new.metadata) == dict(state.texts) else dict(self.new.metadata),
        )
        names = tuple(self.new.names)
        expected = default_order(state, structure.renamed, [*structure.origins, *tied])
        return ModelMetadata(
            closed=True,
            tied=tied,
            order=() if names == expected else names,
            shards={t.name: t.shard for t in self.new if t.shard is not None},
            update=update,
        )

    def after(self, written: Written) -> ChainState:
        """What the receiver will have."""
        return ChainState(
            parameters=written.kept,
            tied={t.name: t.same_as for t in self.new if t.same_as is not None},
            order=tuple(self.new.names),
            texts=dict(self.new.metadata),
            number=self.state.number + 1,
            next_parameter=max([self.state.next_parameter, *(n + 1 for n in self._numbers.values())]),
            graphs=self.state.graphs,
        )

    def _after(self, update: TensorUpdate, number: int, density: int) -> Parameter:
        """A tensor as the receiver will have it."""
        origin, unit, info = update.origin, update.unit, update.info
        if unit is None:
            assert origin is not None
            assert update.received is not None
            values, _, _, residual = update.received()
            same = origin.info.shape == info.shape
            return replace(
                origin,
                info=info,
                read=origin.read if same else lambda: values,
                value_sha256=origin.value_sha256 if same else None,
                change=None,
                residual=None if residual is None else lambda: residual,
            )
        # what is coded whole is what the decoder makes of it
        received = update.received() if update.received is not None else Received(*decoded_alone(unit, density))
        change = received.change if self.options.predict else None
        return after_unit(
            origin,
            info,
            number,
            partial(in_memory, unit.payload),
            received.values,
            received.levels,
            change,
            received.residual,
        )


def _digest_of(pair: Pair) -> bytes:
    """Of what the receiver has of a tensor; empty where that is nothing."""
    if pair.origin is None or pair.held is None:
        return b""
    return pair.origin.value_sha256 or value_digest(pair.held)


def _unsaid(written: Written) -> list[str]:
    """The matrices that changed, or whatever did, where the update says nothing of any of them."""
    changed = [t for t in written.tensors if t.unit is not None or t.error > MOST_MISSED * t.power]
    changed = [t for t in changed if is_matrix(t.info.shape) and dtypes.find(t.info.dtype).kind == "f"] or changed
    unsaid = [t.info.name for t in changed if t.unit is None]
    return unsaid if len(unsaid) == len(changed) else []


def _rows(new: Model, written: Written) -> Iterator[TensorReport]:
    """A row for each tensor."""
    rows = {}
    for update in written.tensors:
        info = update.info
        outcome = update.unit.outcomes[0] if update.unit is not None else None
        rows[info.name] = TensorReport(
            info.name,
            info.shape,
            info.dtype,
            update.tool,
            None if outcome is None else outcome.step,
            written.sizes.get(info.name, 0),
            info.nbytes,
            decibels(update.power, update.error) if update.power else None,
        )
    return (rows[t.name] if t.same_as is None else tied_row(t.name, rows[t.same_as]) for t in new)
