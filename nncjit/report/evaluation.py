"""The results of an evaluation, as text and as plain data."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nncjit.errors import OptionError
from nncjit.report.curves import Curve, common_qualities, rate_difference, smallest
from nncjit.report.rival import RIVAL

SNR = "snr"
"""The measure that every model has: signal-to-noise ratio of its weights, dB."""

LOSS = 1.0
"""Percent of the original's main measure that may be lost in "nearly unchanged"."""

USEFUL = 10.0
"""Percent of it that may be lost in a comparison at equal quality: worse models are of no use."""

UNITS = {
    SNR: ("SNR of the weights", "dB"),
    "psnr": ("PSNR", "dB"),
    "ssim": ("SSIM", ""),
    "top1": ("top-1 accuracy", "%"),
    "top5": ("top-5 accuracy", "%"),
    "accuracy": ("accuracy", "%"),
    "retrieval": ("retrieval", "%"),
    "bits_per_character": ("bits per character", "bits"),
    "cosine": ("mean cosine", ""),
    "spearman": ("rank correlation", ""),
}
"""Measure -> its name for people and its unit; others go by their own name."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The original model's measures."""

    measures: Mapping[str, float]
    task_seconds: float | None = None
    """What the task took: inference of the whole test set."""
    task_peak: int | None = None
    """Peak memory of a separate process that only does that."""


@dataclass(frozen=True, slots=True)
class Pruned(Measured):
    """Those of the model without the channels that are removed, before it is coded."""

    weights: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting of a coder and its results. Sizes in bytes, times in seconds."""

    curve: str
    options: Mapping[str, Any]
    bytes: int
    ratio: float
    """Percent of the original."""
    bits_per_weight: float
    measures: Mapping[str, float]
    encode_seconds: float
    decode_seconds: float
    task_seconds: float | None = None
    """Inference of the whole test set with the decoded weights."""
    encode_peak: int | None = None
    """Peak memory of a separate process that only encodes."""
    decode_peak: int | None = None
    task_peak: int | None = None
    """Of one that only does the task with the decoded weights."""
    factored_seconds: float | None = None
    """Inference with the factors of a decomposition, used as such, where there are any and the task takes them."""
    factored_peak: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model at many points."""

    model: str
    task: str
    """"": the quality is that of the weights alone."""
    title: str
    main: str
    """The measure that counts."""
    higher_is_better: bool
    weights: int
    original_bytes: int
    original: Measured
    pruned: Pruned | None = None
    """None where no channels are removed."""
    points: tuple[Point, ...] = field(repr=False)

    @property
    def quality_name(self) -> str:
        """The main measure for people, with its unit."""
        name, unit = UNITS.get(self.main, (self.main, ""))
        return f"{name} ({unit})" if unit else name

    @property
    def unit(self) -> str:
        return UNITS.get(self.main, ("", ""))[1]

    @property
    def curves(self) -> list[Curve]:
        """Bits a weight against the main measure, ours first."""
        labels = list(dict.fromkeys(point.curve for point in self.points))
        return [self._curve(label) for label in labels]

    def _curve(self, label: str) -> Curve:
        mine = [point for point in self.points if point.curve == label]
        rates = tuple(point.bits_per_weight for point in mine)
        return Curve(label, rates, tuple(point.measures[self.main] for point in mine), self.higher_is_better)

    def gains(self) -> list[str]:
        """The gain at equal quality: a line for each curve against the rival's, or else against the first."""
        curves = self.curves
        anchor = next((curve for curve in curves if curve.label == RIVAL), curves[0])
        return [self._gain(anchor, curve) for curve in curves if curve is not anchor]

    def _gain(self, anchor: Curve, other: Curve) -> str:
        whole, worst = self.original.measures[self.main], None
        if math.isfinite(whole):
            worst = whole - abs(whole) * USEFUL / 100 * (1 if self.higher_is_better else -1)
        try:
            percent = rate_difference(anchor, other, worst)
        except OptionError as error:
            return f"no comparison: {error}"
        ends = common_qualities(anchor, other) or (math.nan, math.nan)
        low, high = ends if worst is None else (_better(ends[0], worst, self.higher_is_better), ends[1])
        much = f"{abs(percent):.1f} % {'fewer' if percent < 0 else 'more'} bytes than"
        where = f"{UNITS.get(self.main, (self.main, ''))[0]} {_short(low)} to {_short(high)}{_spaced(self.unit)}"
        return f"at equal quality, {other.label} needs {much} {anchor.label} (average over {where})"

    def nearly_unchanged(self, loss: float = LOSS) -> dict[str, Point | None]:
        """For each curve the smallest point that loses no more than `loss` percent of the original's main measure."""
        whole = self.original.measures[self.main]
        if not math.isfinite(whole):
            return {}
        allowed = abs(whole) * loss / 100.0
        floor = whole - allowed if self.higher_is_better else whole + allowed
        found: dict[str, Point | None] = {}
        for curve in self.curves:
            at = smallest(curve, floor)
            mine = [point for point in self.points if point.curve == curve.label]
            found[curve.label] = None if at is None else mine[at]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries; what is not finite as None."""
        plain = asdict(self)
        plain["gains"] = self.gains()
        plain["machine"] = {"cores": os.cpu_count(), "python": platform.python_version()}
        cleaned: dict[str, Any] = _finite(plain)
        return cleaned


def _better(one: float, other: float, higher_is_better: bool) -> float:
    return max(one, other) if higher_is_better else min(one, other)


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _spaced(unit: str) -> str:
    return f" {unit}" if unit else ""


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
