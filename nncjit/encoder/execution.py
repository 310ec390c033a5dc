"""What a call of the encoder is given beside its options: how it runs, and data about the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nncjit.errors import OptionError
from nncjit.option_values import THREADS, optional, shown
from nncjit.progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from nncjit.calibrate import Statistics
    from nncjit.encoder.input_metrics import Metrics
    from nncjit.reduce import Pruning


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a call runs. Nothing here changes a byte of the stream.

    Raises
    ------
    OptionError
        A number of threads that no machine has.
    """

    threads: int | None = None
    """Threads at work; None: all cores that the process may use."""
    progress: Progress | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "threads", optional("threads", THREADS, self.threads))


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """What is known of a model beside its weights.

    Raises
    ------
    OptionError
        A value of another kind.
    """

    sensitivity: Mapping[str, np.ndarray[Any, Any]] | None = None
    """Importance of a weight is its magnitude times this, by tensor; for example mean squared gradients."""
    pruning: Pruning | None = None
    """Channels to remove."""
    calibration: Statistics | None = None
    """Which errors of the weights the output feels."""

    def __post_init__(self) -> None:
        if not isinstance(self.sensitivity, Mapping | None):
            raise OptionError(f"sensitivity is {shown(self.sensitivity)}, must be arrays by name of a tensor")
        if self.pruning is not None:
            from nncjit.reduce import Pruning

            if not isinstance(self.pruning, Pruning):
                raise OptionError(f"pruning is {shown(self.pruning)}, must come from nncjit.reduce.plan_pruning")

    @cached_property
    def metrics(self) -> Metrics | None:
        """The calibration as the quantiser wants it."""
        if self.calibration is None:
            return None
        from nncjit.encoder.input_metrics import Metrics

        return Metrics(self.calibration)
