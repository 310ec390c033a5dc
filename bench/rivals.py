"""Other ways to make integers and floats small, behind one small interface.

A rival has a `name`, and ``compress(array) -> bytes`` and ``decompress(data, like) -> array``, where `like` is an array
of the shape and dtype that was compressed. What is not installed is left out (`installed`).

    pip install zstandard constriction zipnn        pip install --no-deps nncodec
"""

from __future__ import annotations

import importlib.util
import lzma
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import nncjit


class Rival(NamedTuple):
    """One way to compress."""

    name: str
    needs: str
    """The module it is made of; empty: nothing to install."""
    compress: Callable[[np.ndarray], bytes]
    decompress: Callable[[bytes, np.ndarray], np.ndarray]

    @property
    def is_installed(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs) is not None


def installed(rivals: tuple[Rival, ...]) -> tuple[Rival, ...]:
    """Those that can be run here."""
    return tuple(rival for rival in rivals if rival.is_installed)


def packed(levels: np.ndarray) -> np.ndarray:
    """Integers in the narrowest type that holds them: what a byte compressor should be given."""
    for dtype in (np.int8, np.int16):
        if np.iinfo(dtype).min <= levels.min() and levels.max() <= np.iinfo(dtype).max:
            return levels.astype(dtype)
    return levels


def _unpacked(raw: bytes, like: np.ndarray) -> np.ndarray:
    width = len(raw) // like.size
    return np.frombuffer(raw, f"<i{width}").astype(np.int32).reshape(like.shape)


# ---- nncjit and NNCodec, which code the levels as a tensor of integers


def _nncjit(threads: int | None) -> Rival:
    return Rival(
        f"nncjit, {'all threads' if threads is None else 'one thread'}",
        "",
        lambda levels: nncjit.encode({"w": levels}, threads=threads),
        lambda data, _: nncjit.decode(data, threads=threads)["w"],
    )


def _nncodec_compress(levels: np.ndarray) -> bytes:
    from nncjit.report.nncodec_worker import encode

    return encode({"w": np.array(levels)}, {"dq": False})


def _nncodec_decompress(data: bytes, _: np.ndarray) -> np.ndarray:
    from nncjit.report.nncodec_worker import decode

    return decode(data)["w"]


# ---- compressors of bytes


def _zstd(level: int) -> Rival:
    def compress(levels: np.ndarray) -> bytes:
        import zstandard

        return zstandard.ZstdCompressor(level=level).compress(packed(levels).tobytes())

    def decompress(data: bytes, like: np.ndarray) -> np.ndarray:
        import zstandard

        return _unpacked(zstandard.ZstdDecompressor().decompress(data), like)

    return Rival(f"zstd -{level}", "zstandard", compress, decompress)


def _lzma_compress(levels: np.ndarray) -> bytes:
    return lzma.compress(packed(levels).tobytes(), preset=6)


def _lzma_decompress(data: bytes, like: np.ndarray) -> np.ndarray:
    return _unpacked(lzma.decompress(data), like)


# ---- an entropy coder of the first order, with the very histogram of the levels


class _Histogram:
    """How often each level comes. An ideal model: what telling it to the decoder costs is left out."""

    def __init__(self) -> None:
        self.low, self.shares = 0, np.ones(1)

    def measure(self, levels: np.ndarray) -> None:
        self.low = int(levels.min())
        counts = np.bincount((levels - self.low).ravel())
        self.shares = counts / counts.sum()

    def model(self) -> Any:
        import constriction

        return constriction.stream.model.Categorical(self.shares, perfect=False)


_histogram = _Histogram()


def _ans_compress(levels: np.ndarray) -> bytes:
    import constriction

    _histogram.measure(levels)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse((levels - _histogram.low).ravel().astype(np.int32), _histogram.model())
    return coder.get_compressed().tobytes()


def _ans_decompress(data: bytes, like: np.ndarray) -> np.ndarray:
    import constriction

    coder = constriction.stream.stack.AnsCoder(np.frombuffer(data, np.uint32))
    return coder.decode(_histogram.model(), like.size).reshape(like.shape) + np.int32(_histogram.low)


# ---- floats without loss


def _zipnn() -> Any:
    from zipnn import ZipNN

    return ZipNN(bytearray_dtype="float32", input_format="byte", threads=1)


def _zipnn_compress(weights: np.ndarray) -> bytes:
    return bytes(_zipnn().compress(weights.tobytes()))


def _zipnn_decompress(data: bytes, like: np.ndarray) -> np.ndarray:
    return np.frombuffer(bytes(_zipnn().decompress(data)), like.dtype).reshape(like.shape)


def _zstd_floats_compress(weights: np.ndarray) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(weights.tobytes())


def _zstd_floats_decompress(data: bytes, like: np.ndarray) -> np.ndarray:
    import zstandard

    return np.frombuffer(zstandard.ZstdDecompressor().decompress(data), like.dtype).reshape(like.shape)


LEVELS = (
    _nncjit(1),
    _nncjit(None),
    Rival("NNCodec", "nncodec", _nncodec_compress, _nncodec_decompress),
    _zstd(3),
    _zstd(19),
    Rival("lzma", "", _lzma_compress, _lzma_decompress),
    Rival("ANS, ideal model", "constriction", _ans_compress, _ans_decompress),
)
"""For integer levels."""

FLOATS = (
    Rival(
        "nncjit, raw",
        "",
        lambda weights: nncjit.encode({"w": weights}, quantizer="raw", threads=1),
        lambda data, _: nncjit.decode(data, threads=1)["w"],
    ),
    Rival("ZipNN", "zipnn", _zipnn_compress, _zipnn_decompress),
    Rival("zstd -3", "zstandard", _zstd_floats_compress, _zstd_floats_decompress),
)
"""For float32 weights without any loss."""
