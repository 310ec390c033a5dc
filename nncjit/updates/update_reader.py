"""An update opened and checked against what it is to be applied to, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from nncjit import dtypes
from nncjit.bits import Source
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.verification import check_crc32
from nncjit.errors import BitstreamError, UpdateError
from nncjit.model import TensorInfo
from nncjit.stream import metadata_unit
from nncjit.stream.data_units import DataUnit, StreamReader
from nncjit.stream.update_metadata import UpdateMetadata
from nncjit.syntax import Context, MpsPayload, ParentNodeIdType, UnitType, read_units
from nncjit.updates import bit_patterns
from nncjit.updates.base_difference import KnownBase
from nncjit.updates.chain_state import ChainState, Parameter, value_digest
from nncjit.updates.common_part import fitted
from nncjit.updates.structure import default_order, names_by_index
from nncjit.updates.tensor_application import AppliedUnit


class OtherParentError(UpdateError):
    """A unit names another parent by its hash, which says all there is to say."""


@dataclass(frozen=True, slots=True)
class OpenUpdate:
    """An update whose headers were read."""

    units: Mapping[str, DataUnit]
    """By the name of the tensor that each holds."""
    mps: MpsPayload
    reader: StreamReader
    metadata: UpdateMetadata | None
    """None: of another writer, which says nothing beside the standard's own syntax."""
    label: str
    """What errors name."""
    had: int
    """Updates before it."""

    @classmethod
    def of(cls, source: Source, state: ChainState, label: str, base_model_id: str | None = None) -> OpenUpdate:
        """Read the headers of an update to a state, and its checksum.

        Raises
        ------
        BitstreamError
            It is damaged or cut off.
        UpdateError
            It is a whole model, says that it belongs to another model, is not the next update of its chain, or has a
            unit of several tensors.
        """
        mps, metadata = _head(source)
        if metadata is not None and metadata.number > 1:
            _check_number(state, metadata.number)
        names = names_by_index(state, metadata.renamed if metadata is not None else {})
        try:
            reader, found = _units(source, Context(element_names=names))
        except BitstreamError:
            _units(source, Context())  # where it is not damaged, indices are beyond the names
            said = f"the base of the update has more tensors than this model, which has {len(names)}"
            raise UpdateError(said) from None
        _check_kind(mps, base_model_id)
        units: dict[str, DataUnit] = {}
        for opened in found:
            results = opened.results()
            if len(results) != 1 or len(opened.parts) != 1:
                raise UpdateError(f"{opened.path}: a unit of an update holds one tensor, this one {len(opened.parts)}")
            if results[0].name in units:
                raise UpdateError(f"{results[0].name}: the update has two units for it")
            units[results[0].name] = opened
        return cls(units, mps, reader, metadata, label, state.number)

    def after(self, state: ChainState, max_bytes: int | None) -> tuple[ChainState, dict[str, AppliedUnit]]:
        """The state after the update, of which nothing is decoded yet, and what decodes the tensors that have a unit.

        Raises
        ------
        UpdateError
            It does not fit the state; the error names tensor and rule.
        """
        parameters, units, free = {}, dict[str, AppliedUnit](), state.next_parameter
        for name, origin in self._lineages(state):
            opened = self.units.get(name)
            if opened is None:
                assert origin is not None
                parameters[name] = self._untouched(name, origin)
                continue
            number = free if origin is None else origin.number
            free += origin is None
            node = opened.unit.header.node
            if self.metadata is None and node is not None and (origin is None or not origin.depth):
                number = node[1]  # another writer numbers as it likes
            info = self._info(name, origin, opened)
            self._check_node(name, origin, opened, number)
            predict = bool(self.mps.nnr_pre_flag)
            units[name] = AppliedUnit(opened, origin, info, number, predict=predict, max_bytes=max_bytes)
            parameters[name] = units[name].outline()
        return self._ordered(state, parameters, free), units

    def check_base(
        self, infos: Mapping[str, TensorInfo], digests: Mapping[str, bytes], tied: Mapping[str, str]
    ) -> None:
        """Refuse a base whose values are not those that the update was made for.

        Raises
        ------
        UpdateError
            Names a tensor that is another, where the update tells.
        """
        if self.metadata is not None:
            reason = self.known_base(self.metadata).difference(infos, digests, tied)
            if reason is not None:
                raise UpdateError(reason)

    def known_base(self, said: UpdateMetadata) -> KnownBase:
        """What is known of the base, beside what the metadata say: names and shapes from units, names from changes."""
        shapes: dict[str, tuple[int, ...] | None] = dict.fromkeys((*said.renamed.values(), *said.gone))
        for name, opened in self.units.items():
            if opened.unit.header.parent_node_id_present_flag:
                shapes[said.renamed.get(name, name)] = None if name in said.reshaped else opened.parts[0].shape
        for name in said.reshaped:
            shapes.setdefault(said.renamed.get(name, name), None)
        return KnownBase(said, shapes, self.reader.model_metadata.tied, self.had)

    def explained(self, state: ChainState, error: UpdateError) -> UpdateError:
        """The error, or, where the state is not the base of the update at all, one that says why."""
        if self.metadata is None or isinstance(error, OtherParentError):
            return error
        infos = {name: parameter.info for name, parameter in state.parameters.items()}
        digests = {name: p.value_sha256 or value_digest(p.read()) for name, p in state.parameters.items()}
        reason = self.known_base(self.metadata).difference(infos, digests, state.tied)
        return error if reason is None else UpdateError(reason)

    def charge(self, budget: MemoryBudget) -> None:
        """Account for all units before anything is allocated for them."""
        for opened in self.units.values():
            budget.charge(opened)

    def base_form(self, state: ChainState) -> ChainState:
        """The state in the form in which the update builds on it: as the start of a chain, where the update builds on
        values alone.
        """
        metadata = self.metadata
        if metadata is None:
            return state
        return state.restarted() if metadata.number == 1 and state.number else state

    def _lineages(self, state: ChainState) -> Iterator[tuple[str, Parameter | None]]:
        """(name, what the receiver has of it) of each tensor after the update; new ones last."""
        said = self.metadata
        renamed = dict(said.renamed) if said is not None else {}
        gone = set(said.gone) if said is not None else set()
        for name, before in renamed.items():
            if before not in state.parameters:
                raise UpdateError(f"{name}: was {before} before, which the model does not have")
        for name in gone:
            if name not in state.parameters:
                raise UpdateError(f"{name}: is to go, but the model does not have it")
        after = {before: name for name, before in renamed.items()}
        if len(after) != len(renamed) or gone & set(after):
            raise UpdateError("a tensor is renamed twice, or renamed and gone")
        found: dict[str, Parameter | None] = {}
        for before, parameter in state.parameters.items():
            name = after.get(before, before)
            if before in gone:
                continue
            if name in found:
                raise UpdateError(f"{name}: two tensors of the model would have this name")
            found[name] = parameter
        for name, opened in self.units.items():
            if name not in found:
                if opened.unit.header.parent_node_id_present_flag:
                    raise UpdateError(f"{name}: a difference to a tensor that the model does not have")
                found[name] = None
        yield from found.items()

    def _info(self, name: str, origin: Parameter | None, opened: DataUnit) -> TensorInfo:
        """The tensor after the update."""
        part = opened.results()[0]
        shard = self.reader.model_metadata.shards.get(name, None if origin is None else origin.info.shard)
        if origin is None or not opened.unit.header.parent_node_id_present_flag:
            return TensorInfo(name, part.shape, part.dtype, shard=shard)
        before = origin.info
        expected = self._shape(name, before.shape)
        if part.shape != expected or len(part.shape) != len(before.shape):
            raise UpdateError(
                f"{name}: a difference of shape {list(part.shape)} to a tensor of shape {list(before.shape)}"
            )
        kind = dtypes.find(part.dtype).kind
        fits = dtypes.find(before.dtype).kind == "f" if kind == "f" else bit_patterns.fits(part.dtype, before.dtype)
        if not fits:
            raise UpdateError(f"{name}: a difference of {part.dtype} to a tensor of {before.dtype}")
        return replace(before, name=name, shape=part.shape, shard=shard)

    def _shape(self, name: str, before: tuple[int, ...]) -> tuple[int, ...]:
        reshaped = self.metadata.reshaped if self.metadata is not None else {}
        return reshaped.get(name, before)

    def _untouched(self, name: str, origin: Parameter) -> Parameter:
        """A tensor without a unit: as it was, cut or filled up where its shape has changed."""
        shape = self._shape(name, origin.info.shape)
        if len(shape) != len(origin.info.shape):
            raise UpdateError(f"{name}: is to have shape {list(shape)}, the model has it as {list(origin.info.shape)}")
        info = replace(origin.info, name=name, shape=shape)
        if shape == origin.info.shape:
            return replace(origin, info=info, change=None)
        return replace(origin, info=info, change=None, value_sha256=None, read=lambda: fitted(origin.read(), shape))

    def _check_node(self, name: str, origin: Parameter | None, opened: DataUnit, number: int) -> None:
        """Refuse a unit whose node or parent is not the receiver's."""
        header = opened.unit.header
        if not header.parent_node_id_present_flag:
            return
        assert origin is not None
        have = f"the model has parameter {origin.number} at depth {origin.depth}"
        if header.parent_node_id_type == ParentNodeIdType.IDS:
            if header.node is not None:
                _, parameter, depth = header.node
                wanted = (parameter, depth - 1)
            else:
                wanted = (header.parent_parameter_id or 0, header.parent_put_node_depth or 0)
            if wanted != (number, origin.depth):
                raise UpdateError(f"{name}: builds on parameter {wanted[0]} at depth {wanted[1]}, {have}")
        else:
            algorithm = "sha256" if header.parent_node_id_type == ParentNodeIdType.SHA256 else "sha512"
            (said,) = header.parent
            found = origin.parent_hash(algorithm)
            if said != found:
                raise OtherParentError(
                    f"{name}: builds on {algorithm} {said.hex()}, {have}, whose {algorithm} is {found.hex()}"
                )
        if header.temporal_context_modeling_flag and origin.depth:
            size = opened.parts[0].size
            if origin.levels is None or origin.n_levels != size:
                raise UpdateError(f"{name}: builds on {size} levels, the model has {origin.n_levels} of it")

    def _ordered(self, state: ChainState, parameters: dict[str, Parameter], free: int) -> ChainState:
        said, model = self.metadata, self.reader.model_metadata
        tied = dict(model.tied) if said is not None else dict(state.tied)
        for name, twin in tied.items():
            if name in parameters or twin not in parameters:
                raise UpdateError(f"{name}: is to be tied to {twin}, which cannot be")
        names = [*parameters, *tied]
        order = model.order or default_order(state, said.renamed if said is not None else {}, names)
        if sorted(order) != sorted(names):
            raise UpdateError("the order of the tensors after the update names others than there are")
        place = {name: i for i, name in enumerate(order)}
        if any(place[twin] > place[name] for name, twin in tied.items()):
            raise UpdateError("a tensor is to be tied to one that comes after it")
        texts = state.texts if said is None or said.texts is None else said.texts
        return ChainState(
            parameters=parameters,
            tied=tied,
            order=tuple(order),
            texts=texts,
            number=state.number + 1,
            next_parameter=free,
            graphs=state.graphs,
        )


def _units(source: Source, context: Context) -> tuple[StreamReader, list[DataUnit]]:
    """All data units, and the reader of them, which has checked what there is of checksums."""
    reader = StreamReader(source, context=context)
    units = list(reader.data_units())
    if reader.crc32 is not None:
        check_crc32(source, *reader.crc32)
    return reader, units


def _head(source: Source) -> tuple[MpsPayload, UpdateMetadata | None]:
    """The parameter set, and what the metadata unit says."""
    mps: MpsPayload | None = None
    for unit in read_units(source):
        if unit.type == UnitType.MPS:
            mps = unit.body
        if unit.type == UnitType.TPL:
            content = metadata_unit.content_of(unit)
            if content is not None:
                if mps is None:
                    break
                return mps, metadata_unit.ModelMetadata.of(content).update
        if unit.type == UnitType.NDU:
            break
    if mps is None:
        raise BitstreamError("has no parameter set", bit=8 * source.size)
    return mps, None


def _check_kind(mps: MpsPayload, base_model_id: str | None) -> None:
    """Refuse a whole model, and an update that says that it belongs to another model."""
    said = mps.base_model_id
    if base_model_id is not None and said != base_model_id:
        raise UpdateError(f"base_model_id is {said!r}, the model is {base_model_id!r}")
    if not mps.mps_parent_signalling_enabled_flag:
        raise UpdateError("the stream is a whole model, not an update: decompress it instead")


def _check_number(state: ChainState, number: int) -> None:
    """Refuse an update that is not the next one of its chain."""
    if number != state.number + 1:
        have = f"update {state.number}" if state.number else "the base itself"
        raise UpdateError(f"this is update {number} of its chain, it follows on {number - 1}; the model is at {have}")
