"""Convert model files of any known format to streams and back, tensor by tensor."""

from nncjit.convert.compression import compress
from nncjit.convert.decompression import decompress

__all__ = ["compress", "decompress"]
