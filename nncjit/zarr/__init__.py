"""Chunks of arrays as NNC streams, for zarr and numcodecs: ``import nncjit.zarr`` registers both codecs as ``nnc``."""

from nncjit.zarr.array_codec import NncCodec
from nncjit.zarr.buffer_codec import NncBuffers

__all__ = ["NncBuffers", "NncCodec"]
