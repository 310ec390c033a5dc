"""What may be chosen for an update, beside the options of the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from nncjit.encoder.options import OptionKeywords, Options
from nncjit.errors import OptionError
from nncjit.option_values import Bytes, Number, Whole, Word, checked, optional, shown

Parents = Literal["ids", "sha256", "sha512"]
Tool = bool | Literal["auto"]

UNUSED = (
    "snr",
    "loss",
    "rank",
    "transform_tables",
    "scale_rows",
    "first_dimension",
    "join",
    "group",
    "blocks",
    "fold_batchnorm",
    "given_blocks",
    "references",
    "max_unit_bytes",
    "profile",
)
"""Options of the encoder that an update has no use for."""
DEFAULT_RATE_WEIGHT = 1.0
"""Most levels of an update are zero: there, a decision that ignores the bits is a poor one."""


class UpdateKeywords(OptionKeywords, total=False):
    """The options of an update as keywords, for editors and type checkers."""

    lossless: bool
    parents: Parents
    temporal: Tool
    history: Tool
    predict: bool
    zero_rows: float
    one_step: bool
    size: int | str | None
    device: int
    base_model_id: str
    renamed: Mapping[str, str]
    compact: bool
    carry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOptions:
    """What may be chosen for an update.

    Raises
    ------
    OptionError
        A value is out of range, or two contradict each other.
    """

    encoder: Options = field(default_factory=lambda: Options(rate_weight=DEFAULT_RATE_WEIGHT))
    """How values are quantised and coded. `quality` is relative to an update's own default."""
    lossless: bool = False
    """Every tensor becomes what it is in the new model, bit for bit."""
    parents: Parents = "ids"
    """How a unit names the one that it builds on."""
    temporal: Tool = "auto"
    """Whether contexts depend on the levels of the update before."""
    history: Tool = "auto"
    """Whether contexts depend on where earlier updates were not zero."""
    predict: bool = False
    """nnr_pre_flag: an update codes how it differs from the update before."""
    zero_rows: float = 0.0
    """Share of the rows of each difference that are left out, those of least energy."""
    one_step: bool = False
    """One step for all matrices, relative to the spread of all that is to be said, where no qp is given: whatever
    tensor they are in, the largest changes are coded and the smallest are not."""
    size: int | str | None = None
    """Bytes that the update may have, for example 20000 or "20KB"."""
    device: int = 0
    """device_id of the nodes."""
    base_model_id: str = ""
    """base_model_id in the parameter set; empty: none."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New name -> name in the base."""
    compact: bool = False
    """Leave out names and tags that the receiver can do without."""
    carry: bool = False
    """What a `Sender` has left over of an update is added to the next one after a `rebase`."""

    def __post_init__(self) -> None:
        encoder: object = self.encoder
        if not isinstance(encoder, Options):
            raise OptionError(f"encoder is {shown(encoder)}, must be nncjit.Options")
        for name in ("lossless", "predict", "one_step", "compact", "carry"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} is {shown(getattr(self, name))}, must be True or False")
        for name in ("temporal", "history"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (isinstance(value, str) and value == "auto"):
                raise OptionError(f"{name} is {shown(getattr(self, name))}, must be True, False or auto")
        checked("parents", Word(*get_args(Parents)), self.parents)
        checked("zero_rows", Number(0.0, 1.0), self.zero_rows)
        checked("device", Whole(0, 1 << 20), self.device)
        size = optional("size", Bytes(1), self.size)
        object.__setattr__(self, "size", size)
        model_id: object = self.base_model_id
        if not isinstance(model_id, str) or "\0" in model_id:
            raise OptionError(f"base_model_id is {shown(self.base_model_id)}, must be a text without zero bytes")
        renamed: object = self.renamed
        if not isinstance(renamed, Mapping) or not all(
            isinstance(text, str) for pair in renamed.items() for text in pair
        ):
            raise OptionError(f"renamed is {shown(self.renamed)}, must be new names and the names before")
        self._check_encoder()

    def _check_encoder(self) -> None:
        given = self.encoder.keywords()
        for name in UNUSED:
            if name in given:
                raise OptionError(f"{name}: an update has no use for it")
        for rule in self.encoder.rules:
            for name in {*UNUSED, "bits", "ratio"} & set(dict(rule.changes)):
                raise OptionError(f"rule {shown(rule.pattern)}: {name}: an update has no use for it")
        sizes = [name for name in ("bits", "ratio") if name in given] + ["size"] * (self.size is not None)
        if len(sizes) > 1:
            raise OptionError(f"{' and '.join(sizes)} contradict each other")
        if sizes and self.lossless:
            raise OptionError(f"{sizes[0]} and lossless contradict each other: every bit takes what it takes")
        reader = self.encoder.stream.compatible
        if reader is not None:
            unread = {
                "parents": self.parents != "ids",
                "predict": self.predict,
                "compact": self.compact,
                "lossless": self.lossless,
            }
            for name, wanted in unread.items():
                if wanted:
                    raise OptionError(f"{name}: {reader} cannot read such an update")

    @classmethod
    def of(cls, options: Options | UpdateOptions | None, keywords: Mapping[str, Any]) -> UpdateOptions:
        """`options` changed by `keywords`, or made of them; those of an update and those of the encoder in one.

        Raises
        ------
        OptionError
            A keyword is unknown, or a value is not one of its own.
        """
        own = {f.name for f in fields(cls)} - {"encoder"}
        mine = {name: value for name, value in keywords.items() if name in own}
        rest = {name: value for name, value in keywords.items() if name not in own}
        before: dict[str, Any] = {}
        if isinstance(options, UpdateOptions):
            before = {name: getattr(options, name) for name in own}
            options = options.encoder
        elif options is None:
            rest = {"rate_weight": DEFAULT_RATE_WEIGHT} | rest
        return cls(encoder=Options.of(options, rest), **(before | mine))

    @classmethod
    def of_one_update(cls, options: Options | UpdateOptions | None, keywords: Mapping[str, Any]) -> UpdateOptions:
        """Like `of`, for an update that no `Sender` makes.

        Raises
        ------
        OptionError
            Also for an option that needs what a sender keeps.
        """
        found = cls.of(options, keywords)
        if found.carry:
            raise OptionError("carry: what an update leaves over is kept by a Sender, and this update has none")
        return found

    def keywords(self) -> dict[str, Any]:
        """The keywords that make equal options, as JSON has them."""
        mine = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "encoder"}
        chosen = {name: value for name, value in mine.items() if value not in (False, 0, None, "", {}, "auto", "ids")}
        chosen |= {name: False for name in ("temporal", "history") if mine[name] is False}
        if "renamed" in chosen:
            chosen["renamed"] = dict(self.renamed)
        encoder = self.encoder.keywords()
        return {"rate_weight": 0.0} | encoder | chosen

    def target_bytes(self, n_weights: int, original_bytes: int) -> float | None:
        """Bytes that the update shall have; None where no size is asked for."""
        if self.size is not None:
            return float(self.size)
        fineness = self.encoder.fineness
        if fineness.kind == "bits":
            return fineness.value * n_weights / 8
        return fineness.value * original_bytes / 100 if fineness.kind == "ratio" else None
