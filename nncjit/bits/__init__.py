"""Bits in and out: the descriptors of the standard, and where the bytes come from. Spec, section 1."""

from nncjit.bits.bit_reader import MAX_UE_SUFFIX, BitReader, EndOfDataError
from nncjit.bits.bit_writer import BitWriter
from nncjit.bits.source import Buffer, FileSource, MemorySource, RemoteSource, Source, StreamSource, as_source

__all__ = [
    "MAX_UE_SUFFIX",
    "BitReader",
    "BitWriter",
    "Buffer",
    "EndOfDataError",
    "FileSource",
    "MemorySource",
    "RemoteSource",
    "Source",
    "StreamSource",
    "as_source",
]
