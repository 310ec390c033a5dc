"""A slow decoder and writer in plain Python integers, transcribed from the bitstream description.

It shares no code with the package: where the two agree, a mistake would have to be made twice. `decode` reads whole
streams, `decode_layer` one matrix; `oracle.write` makes streams with any choice it is told to.
"""

from oracle.bits import DamagedError
from oracle.engine import Engine
from oracle.layer import Decoded, LayerShape, decode_layer
from oracle.stream import Memory, decode

__all__ = ["DamagedError", "Decoded", "Engine", "LayerShape", "Memory", "decode", "decode_layer"]
