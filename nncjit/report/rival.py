"""NNCodec for comparison, in a separate process and, if wanted, in a separate environment."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from nncjit.errors import ModelError, OptionError
from nncjit.report.nncodec_worker import MARK, load, save

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

RIVAL = "NNCodec"
WORKER = Path(__file__).with_name("nncodec_worker.py")
MAX_QP = 0
NNCODEC_QP = -38
"""Its own default."""


class Rival:
    """A process that runs NNCodec. A context manager.

    Raises
    ------
    OptionError
        When entered: the interpreter does not exist, or has no NNCodec.
    """

    def __init__(self, python: str) -> None:
        self.python = python
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def here(cls) -> Rival | None:
        """NNCodec in this interpreter's environment, None where it is not installed."""
        return cls(sys.executable) if importlib.util.find_spec("nncodec") is not None else None

    def __enter__(self) -> Rival:
        self._start()
        self._folder = tempfile.TemporaryDirectory(prefix="nncjit-rival-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._folder is not None:
            self._folder.cleanup()

    def encode(self, arrays: Mapping[str, Array], **options: Any) -> tuple[bytes, float]:
        """A stream of arrays as `fit_for_rival` makes them, and the seconds that it took.

        Raises
        ------
        ModelError
            NNCodec refuses them, or its process ends.
        """
        source, target = self._path("in.npz"), self._path("out.nnc")
        save(source, dict(arrays))
        seconds = self._do("encode", source, target, options)
        return target.read_bytes(), seconds

    def decode(self, data: bytes) -> tuple[Arrays, float]:
        """The arrays of a stream, and the seconds that it took."""
        source, target = self._path("in.nnc"), self._path("out.npz")
        source.write_bytes(data)
        seconds = self._do("decode", source, target, {})
        arrays: Arrays = load(target)
        return arrays, seconds

    def _path(self, name: str) -> Path:
        assert self._folder is not None, "a Rival is used in a with statement"
        return Path(self._folder.name) / name

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter that the user named, and our own script
                [self.python, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            raise OptionError(f"rival {self.python}: cannot be started: {error.strerror}") from None
        if self._answer() is None:
            self._stop()
            raise OptionError(f"rival {self.python}: has no NNCodec; install it there with pip install nncodec")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _do(self, verb: str, source: Path, target: Path, options: dict[str, Any]) -> float:
        if self._process is None:  # it ended during the previous job
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps([verb, str(source), str(target), options]) + "\n")
        process.stdin.flush()
        answer = self._answer()
        if answer is None:
            self._stop()
            raise ModelError(f"NNCodec died when it was to {verb} the model")
        if "error" in answer:
            raise ModelError(f"NNCodec cannot {verb} the model: {answer['error']}")
        return float(answer["seconds"])

    def _answer(self) -> dict[str, Any] | None:
        """The next answer; None where the process ended instead."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line[len(MARK) :])
                return answer
        return None


def fit_for_rival(arrays: Mapping[str, Array]) -> tuple[Arrays, Arrays]:
    """The arrays in a form that NNCodec accepts, and those that it cannot accept.

    It knows float32 and int32 only, no complex numbers, no scalars and nothing empty, and takes names that end in
    ``_G`` or ``_H`` for factors.
    """
    taken: Arrays = {}
    left: Arrays = {}
    for name, array in arrays.items():
        unfit = array.dtype.kind == "c" or (array.dtype.kind in "iub" and _too_wide(array))
        if not array.size or name.endswith(("_G", "_H")) or unfit:
            left[name] = array
            continue
        dtype = np.int32 if array.dtype.kind in "iub" else np.float32
        taken[name] = np.ascontiguousarray(array.astype(dtype)).reshape(array.shape or (1,))
    return taken, left


def back_from_rival(found: Mapping[str, Array], original: Mapping[str, Array]) -> Arrays:
    """What NNCodec decoded, in the original shapes and dtypes, with the arrays that it could not accept."""
    return {
        name: found[name].astype(array.dtype).reshape(array.shape) if name in found else array
        for name, array in original.items()
    }


def first_qp(arrays: Mapping[str, Array], snr: float) -> int:
    """The quantization parameter with which one step for all weights reaches about this signal-to-noise ratio.

    The error of a trellis with step d is that of a uniform step of about 1.9 d, of variance (1.9 d)^2 / 12; at density
    2 the step is about 2^(qp / 4). Vectors are coded much finer, so that the error is the matrices' alone.
    """
    floats = [array for array in arrays.values() if array.dtype.kind == "f"]
    power = sum(float(np.square(array.astype(np.float64)).sum()) for array in floats)
    weights = sum(array.size for array in floats if array.ndim > 1)
    if not (weights and 0 < power < math.inf and math.isfinite(snr)):
        return NNCODEC_QP
    noise = math.sqrt(power / weights) * 10.0 ** (-snr / 20.0)
    return min(round(4.0 * math.log2(noise * math.sqrt(12.0) / 1.9)), MAX_QP)


def parse_qps(text: str) -> Sequence[int]:
    """A list of quantization parameters as the command line writes it: ``-38,-32,-26``."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise OptionError(f"--rival-qp {text}: must be whole numbers such as -38,-32,-26") from None


def _too_wide(array: Array) -> bool:
    return bool(array.size) and (int(array.max()) > 2**31 - 1 or int(array.min()) < -(2**31))
