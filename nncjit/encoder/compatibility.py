"""Streams for other readers: what NNCodec 2.1.3 cannot read is refused by name. Spec, section 13.

It was tried out, not read up: each of these options made a stream that NNCodec refused, or read as something else.
"""

from __future__ import annotations

from nncjit import dtypes
from nncjit.encoder.choices import Choices
from nncjit.encoder.execution import Data
from nncjit.encoder.options import Options
from nncjit.errors import OptionError
from nncjit.model import TensorInfo


def check_stream(options: Options, data: Data) -> None:
    """Refuse what no stream for the chosen reader may have.

    Raises
    ------
    OptionError
        Names the option.
    """
    if options.stream.compatible is None:
        return
    stream = options.stream
    unread = {
        "profile": stream.profile != 1,
        "references": stream.references == "index",
        "max_unit_bytes": stream.max_unit_bytes is not None,
        "pruning": data.pruning is not None,
    }
    for name, given in unread.items():
        if given:
            raise OptionError(f"{name}: {stream.compatible} cannot read such a stream")


def check_tensor(info: TensorInfo, choices: Choices, options: Options) -> None:
    """Refuse a tensor that the chosen reader would not read, or not as it is.

    Raises
    ------
    OptionError
        Names tensor and option.
    """
    if options.stream.compatible is None:
        return
    unread = {
        "quantizer=raw": choices.quantising.quantizer == "raw",
        "quantizer=lossless": choices.quantising.quantizer == "lossless",
        "rank": choices.reducing.rank is not None,
        "transform_tables": choices.reducing.transform_tables,
        "scale_rows": choices.reducing.scale_rows,
        "first_dimension": choices.layout.first_dimension != 0,
        "join": choices.layout.join != "",
        "group": choices.layout.group != "",
    }
    for name, given in unread.items():
        if given:
            refuse(info, f"{name} cannot be used", options)
    if dtypes.find(info.dtype).kind == "f" and info.name.endswith(("_G", "_H")):
        refuse(info, "its name is that of a factor", options)


def refuse(info: TensorInfo, why: str, options: Options) -> None:
    """Refuse a tensor.

    Raises
    ------
    OptionError
    """
    raise OptionError(f"{info.name}: {why}: {options.stream.compatible} could not read it")
