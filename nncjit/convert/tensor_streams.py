"""A model's stream divided into one stream for each tensor, for containers that keep tensors apart.

The model is encoded as a whole, so that steps, rules and targets are those of `compress`. Each data unit then stands
behind a head of its own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from tempfile import TemporaryFile
from typing import Any

from nncjit.bits import as_source
from nncjit.decoder.memory_budget import MemoryBudget
from nncjit.decoder.stream_decoder import Decoded, decode_units
from nncjit.encoder.execution import Execution
from nncjit.encoder.model_encoder import Encoded, encode_model
from nncjit.encoder.options import Options
from nncjit.errors import BitstreamError, ModelError, OptionError
from nncjit.model import Model, Tensor, TensorInfo
from nncjit.option_values import Bytes, optional
from nncjit.progress import Progress
from nncjit.remote import is_url
from nncjit.stream.data_units import StreamReader
from nncjit.stream.reports import CompressReport, TensorReport
from nncjit.syntax import Context, MpsPayload, QuantizationMethod, StrHeader, Unit, UnitType, write_unit


class TensorStreams:
    """The streams of tensors that were encoded together.

    Parameters
    ----------
    encoded : Encoded
        What came of them.
    source : Source
        Their common stream.
    """

    def __init__(self, encoded: Encoded, source: Any) -> None:
        self.encoded, self._source = encoded, source
        self._units: dict[str, Unit] = {
            opened.unit.names[0]: opened.unit for opened in StreamReader(source).data_units()
        }

    def __contains__(self, name: object) -> bool:
        return name in self._units

    def size(self, name: str) -> int:
        """Bytes of the stream of a tensor."""
        unit = self._units[name]
        return len(_head(unit.context)) + unit.size

    def read(self, name: str) -> bytes:
        """The stream of a tensor."""
        unit = self._units[name]
        return _head(unit.context) + bytes(self._source.read(unit.offset, unit.offset + unit.size))

    def report(
        self, paths: tuple[Any, Any], model: Model, n_bytes: int, started: float, names: Collection[str] | None = None
    ) -> CompressReport:
        """What became of a model that has these streams inside.

        Parameters
        ----------
        paths : (source, target)
        model : Model
            Its tensors that have no stream, or are not in `names`, stay as they were.
        n_bytes : int
            Of the target.
        started : float
            When the work began, by `time.perf_counter`.
        names : collection of str, optional
            The tensors whose streams were used; None: all.
        """
        source, target = map(fspath, paths)
        coded = {row.name: row for row in self.encoded.tensors if names is None or row.name in names}
        rows = (
            coded.get(t.name) or TensorReport(t.name, t.shape, t.dtype, "as it was", None, t.nbytes, t.nbytes)
            for t in model
        )
        return CompressReport(
            source=source,
            target=target,
            original_bytes=sum(tensor.nbytes for tensor in model),
            compressed_bytes=n_bytes,
            seconds=time.perf_counter() - started,
            threads=self.encoded.threads,
            tensors=tuple(rows),
            snr=self.encoded.snr,
        )


def named_as_container(path: Any, suffixes: tuple[str, ...]) -> bool:
    """Whether the name is that of a file with streams inside; ModelError for one at a URL."""
    named = isinstance(path, str | PathLike) and fspath(path).lower().endswith(suffixes)
    if named and is_url(path):
        raise ModelError(f"{path}: files with encoded tensors are made and read on this machine, not at a URL")
    return named


@contextmanager
def encoded_apart(
    tensors: Collection[Tensor], options: Options, execution: Execution, folder: Any
) -> Iterator[TensorStreams]:
    """Encode tensors; their streams are in a temporary file of a folder until the block ends.

    Raises
    ------
    OptionError
        An option puts several tensors into one unit, or a unit into pieces.
    """
    _check(options)
    names = {tensor.name for tensor in tensors}
    # all rules hold for some tensor of the model, but perhaps for none of these
    rules = tuple(rule for rule in options.rules if any(map(rule.matches, names)))
    with TemporaryFile(dir=folder) as stream:
        encoded = encode_model(Model(tensors), stream, Options.of(options, {"rules": rules}), execution)
        stream.seek(0)
        with as_source(stream) as source:
            yield TensorStreams(encoded, source)


def decode_one(data: bytes, name: str, *, threads: int | None = None, max_bytes: int | str | None = None) -> Any:
    """Dtype and storage array of the one tensor in a stream.

    Raises
    ------
    BitstreamError
        The stream is damaged.
    ModelError
        It holds several tensors, or none; `name` is what the error names.
    """
    only = _decode_only(data, name, threads, max_bytes)
    return only.part.dtype, only.storage


def decode_as(
    data: bytes,
    info: TensorInfo,
    *,
    threads: int | None = None,
    max_bytes: int | str | None = None,
    others: Container[str] = (),
) -> Any:
    """Storage array of the one tensor in a stream, which must be what a container says.

    Parameters
    ----------
    others : container of str
        Names of tensors in the container: a stream that was made for another one of them is refused.

    Raises
    ------
    ModelError
        It is something else, or the stream is damaged. The error names the tensor.
    """
    try:
        only = _decode_only(data, info.name, threads, max_bytes)
    except BitstreamError as error:
        raise ModelError(f"{info.name}: {error}") from None
    check_fits(info, only.part.dtype, only.storage.shape)
    made_for = only.opened.unit.names[0]
    if made_for != info.name and made_for in others:
        raise ModelError(f"{info.name}: its stream is that of {made_for}")
    return only.storage


def _decode_only(data: bytes, name: str, threads: int | None, max_bytes: int | str | None) -> Decoded:
    with as_source(data) as source:
        budget = MemoryBudget(optional("max_bytes", Bytes(), max_bytes), source.size)
        found = list(decode_units(StreamReader(source).data_units(), budget, threads=threads))
    if len(found) != 1:
        raise ModelError(f"{name}: its stream holds {len(found)} tensors, must be one")
    return found[0]


def in_turn(
    tensors: Iterable[Tensor], infos: Sequence[TensorInfo], told: Progress | None
) -> Iterator[tuple[Tensor, TensorInfo]]:
    """The tensors of a container with what each is when it is decoded; tells how far they are."""
    done, total = 0, sum(info.size for info in infos)
    for tensor, info in zip(tensors, infos, strict=True):
        yield tensor, info
        done += info.size
        if told is not None:
            told(done, total, info.name)


def check_fits(info: TensorInfo, dtype: str, shape: tuple[int, ...]) -> None:
    """Raise ModelError unless a stream holds what its container says."""
    if dtype != info.dtype or shape != info.shape:
        is_now, should = f"{dtype}{list(shape)}", f"{info.dtype}{list(info.shape)}"
        raise ModelError(f"{info.name}: its stream holds {is_now}, must be {should}")


def described(data: bytes, name: str, budget: MemoryBudget) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of the one tensor in a stream, which is charged to a budget.

    Raises
    ------
    BitstreamError
        Its header is damaged, or it asks for too much memory.
    ModelError
        The stream holds several tensors, or none; `name` is what the error names.
    """
    with as_source(data) as source:
        units = list(StreamReader(source).data_units())
        parts = [part for unit in units for part in unit.results()]
        if len(parts) != 1:
            raise ModelError(f"{name}: its stream holds {len(parts)} tensors, must be one")
        budget.charge(units[0])
        return parts[0].shape, parts[0].dtype


def _check(options: Options) -> None:
    stream = options.stream
    unfit = {
        "blocks": stream.blocks,
        "fold_batchnorm": stream.fold_batchnorm,
        "given_blocks": bool(stream.given_blocks),
        "references": stream.references == "index",
        "max_unit_bytes": stream.max_unit_bytes is not None,
        "group": any(name == "group" for rule in options.rules for name, _ in rule.changes),
        "join": any(name == "join" for rule in options.rules for name, _ in rule.changes),
    }
    for name, given in unfit.items():
        if given:
            raise OptionError(f"{name}: cannot be used where each tensor has a stream of its own")


def _head(context: Context) -> bytes:
    """What comes before a data unit in a stream of its own."""
    parameters = MpsPayload(
        mps_quantization_method_flags=QuantizationMethod.UNIFORM,
        mps_qp_density=context.qp_density,
        mps_quantization_parameter=context.quantization_parameter,
    )
    start = StrHeader(general_profile_idc=context.profile or 0)
    first = write_unit(UnitType.STR, start, b"", Context())
    return first + write_unit(UnitType.MPS, None, parameters, Context().after(UnitType.STR, start, b""))
