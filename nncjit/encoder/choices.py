"""What may be chosen: groups of options. A tensor has one `Choices`, a model's stream one `StreamLayout`.

To add an option, add a field here, and its type to `nncjit.encoder.options.OptionKeywords`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from nncjit.encoder.option_table import OptionGroup, among, option
from nncjit.errors import OptionError
from nncjit.option_values import Blocks, Counts, Either, Flag, Label, Number, Pattern, Whole, Word, unknown

if TYPE_CHECKING:
    from nncjit.reduce import Block

FinenessKind = Literal["ratio", "bits", "snr", "loss", "qp", "quality"]
Quantizer = Literal["trellis", "uniform", "codebook", "auto", "lossless", "raw"]
Selection = Literal["fast", "exact", "reference", "none"]
Unreached = Literal["kept", "zero"]
Scope = Literal["tensor", "model"]
References = Literal["name", "index", "auto"]
Reader = Literal["nncodec"]
Auto = Literal["auto"]

Preset = Literal["tiny", "balanced", "safe", "lossless"]

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"quality": 0.5, "rate_weight": 1.0},
    "balanced": {},
    "safe": {"quality": 4.0},
    "lossless": {"quantizer": "lossless"},
}
"""Options for those who do not want to choose any, by name."""

TARGETS = ("ratio", "bits", "snr", "loss")
"""Kinds of fineness that are searched for; the others give the steps at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinenessKinds(OptionGroup):
    """The kinds of `Fineness`, as the keywords that name them: at most one is given."""

    TITLE: ClassVar[str] = "how small or how fine: one of these"

    ratio: float | None = option(
        None, Number(0.01, 100.0), "PERCENT", "target size in percent of the original", "It is met within 1 %."
    )
    bits: float | None = option(
        None, Number(0.01, 32.0), "B", "target size in bits per weight", "It is met within 1 %."
    )
    snr: float | None = option(
        None, Number(0.0, 120.0), "DB", "target signal-to-noise ratio of the weights, in dB", "It is met within 1 %."
    )
    loss: float | None = option(
        None,
        Number(1e-6, 1.0),
        "SHARE",
        "target squared error of the output, as a share of its power",
        "It is what a calibration expects, so it needs one, and holds for the whole model: no rule sets it. 0.02 is a "
        "cosine of about 0.99.",
    )
    qp: int | None = option(
        None,
        Whole(-4096, 4095),
        "QP",
        "quantization parameter of the standard, for example -32",
        "The step is about 2^(qp / 2^qp_density), in 2^-32..2^32: by default, qp is in -128..127. Given for the whole "
        "model, it holds for matrices only: vectors keep their own fine steps, unless a rule gives them a qp.",
        needs=("saving",),
    )
    quality: float | None = option(
        None,
        Number(1e-3, 1e3),
        "F",
        "precision of the default steps: 2 costs about one bit a weight more",
        "The default steps follow from each tensor's own spread; 2 halves every step, for 6 dB more. Without any of "
        "these options it is 1.",
        needs=("quantised",),
    )


@dataclass(frozen=True, slots=True)
class Fineness:
    """How fine weights are quantised: one value of one kind.

    Raises
    ------
    OptionError
        The kind is unknown, or the value out of its range.
    """

    kind: FinenessKind = "quality"
    value: float = 1.0

    def __post_init__(self) -> None:
        kinds = FinenessKinds.rows()
        if self.kind not in kinds:
            raise OptionError(unknown("kind of fineness", self.kind, kinds))
        object.__setattr__(self, "value", kinds[self.kind].check(self.value))

    @classmethod
    def of(cls, flat: Mapping[str, Any], otherwise: Fineness) -> Fineness:
        """The fineness that keywords give; `otherwise` where they name none, the default where they take it back.

        Raises
        ------
        OptionError
            Two kinds are given.
        """
        named = among(FinenessKinds.rows(), flat)
        rows = FinenessKinds.rows()
        given = [kind for kind, value in named.items() if rows[kind].check(value) is not None]
        if len(given) > 1:
            kinds = ", ".join(FinenessKinds.rows())
            raise OptionError(f"{' and '.join(given)} contradict each other: give one of {kinds}")
        if given:
            return cls(given[0], named[given[0]])  # type: ignore[arg-type] # a name in the table is a kind
        return cls() if otherwise.kind in named else otherwise

    @property
    def is_target(self) -> bool:
        """Whether the steps must be searched for it."""
        return self.kind in TARGETS

    @property
    def quality(self) -> float:
        """The factor on the precision of the default steps; 1 where another kind decides them."""
        return self.value if self.kind == "quality" else 1.0

    @property
    def qp(self) -> int | None:
        """The quantization parameter, None where another kind decides the steps."""
        return int(self.value) if self.kind == "qp" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantising(OptionGroup):
    """How weights become levels."""

    TITLE: ClassVar[str] = "how it is quantised"

    quantizer: Quantizer = option(
        "trellis",
        Word(*get_args(Quantizer)),
        "NAME",
        "how weights become levels",
        '"auto" takes the cheapest of trellis, uniform and codebook on a sample. "lossless" loses no bit and codes the '
        'exponents of floats and the high bits of integers, "raw" stores the tensor as it is. '
        "Vectors are always quantised uniformly.",
    )
    rate_weight: float = option(
        0.0,
        Number(0.0, 100.0),
        "L",
        "weight of size against error",
        "Lambda of rate-distortion decisions: 0 is least error, 1 the reference software's usual compromise.",
        needs=("matrix",),
    )
    frequency_weight: float = option(
        0.5,
        Number(0.0, 1.0),
        "B",
        "how much a calibrated table favours rows that the samples use often",
        "0: all rows count alike; 1: a row counts as much as the samples felt its errors, and what they never use may "
        "be lost. Without calibration it means nothing.",
        needs=("calibration",),
    )
    unreached: Unreached = option(
        "kept",
        Word(*get_args(Unreached)),
        "HOW",
        "what becomes of matrices that no sample of a calibration reached",
        '"kept" codes them with their default steps. "zero" makes them zero, which takes a few bytes; the report names '
        "them. It is for what is never used, as the pooler of an embedding model: weights that other inputs would "
        "reach are lost.",
        needs=("calibration",),
    )
    exact: bool = option(
        False,
        Flag(),
        "",
        "exact and slower searches everywhere",
        "The trellis in float64, and no samples.",
        needs=("matrix",),
    )
    qp_density: int = option(
        2,
        Whole(0, 7),
        "D",
        "steps an octave in which qp counts: 2^D",
        "It holds for the whole model: no rule changes it.",
        per_tensor=False,
        needs=("qp",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding(OptionGroup):
    """How levels become bits."""

    TITLE: ClassVar[str] = "how it is coded"

    unary_length: int | Auto = option(
        11,
        Either(Whole(1, 256), Word("auto")),
        "U",
        "greater-than flags of the binarisation",
        'They come before the Exp-Golomb rest (cabac_unary_length_minus1 + 1). "auto" takes the cheapest length on a '
        "sample.",
        needs=("coded",),
    )
    scan_order: int | Auto = option(
        "auto",
        Either(Whole(0, 4), Word("auto")),
        "S",
        "order in which levels are coded: 0 by rows, 1 to 4 in blocks",
        "Order s from 1 on has blocks of 4 * 2^s rows, which can be decoded in parallel. "
        '"auto" takes them for large tensors.',
        needs=("rows",),
    )
    selection: Selection = option(
        "fast",
        Word(*get_args(Selection)),
        "HOW",
        "how the context initialisation is chosen",
        '"fast" compares the candidates on a sample of large tensors, "exact" on all of each. "reference" '
        'chooses as the reference software does, "none" takes the first.',
        needs=("coded",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reducing(OptionGroup):
    """Fewer or simpler numbers before quantising."""

    TITLE: ClassVar[str] = "fewer or simpler numbers"
    NEEDS: ClassVar[tuple[str, ...]] = ("matrix",)

    zeros: float = option(
        0.0,
        Number(0.0, 1.0),
        "SHARE",
        "share of the weights to set to zero, the least important first",
        "With `block_shape`, this share of the blocks.",
    )
    pattern: tuple[int, int] | None = option(
        None,
        Counts("n:m with n not above m, for example 2:4", ":", count=2, rising=True),
        "N:M",
        "keep the n most important of every m weights along a row, for example 2:4",
    )
    unify: float = option(
        0.0,
        Number(0.0, 1.0),
        "LOSS",
        "give blocks one magnitude where that loses at most this share of their energy",
        "Blocks are 1x4 unless `block_shape` is given.",
    )
    block_shape: tuple[int, ...] | None = option(
        None,
        Counts("two or more sides joined by x, for example 1x4", "x"),
        "RxC",
        "blocks of zeros and unify, for example 1x4",
        needs=("zeros", "unify"),
    )
    rank: int | float | Auto | None = option(
        None,
        Either(Whole(1, 1 << 20), Number(0.0, 1.0, fraction=True), Word("auto")),
        "R",
        "split a matrix into two factors: their rank, or below 1 the share of energy to keep",
        '"auto" splits where that is smaller at the same noise.',
    )
    transform_tables: bool = option(
        False,
        Flag(),
        "",
        "turn tables (8 rows a column or more) to axes of their own where that is estimated to be smaller",
        "A word embedding is then coded as a product, which its reader has to multiply out. It takes time with the "
        "square of the columns. With calibration, tables that have statistics are transformed anyway.",
    )
    scale_rows: bool = option(
        False, Flag(), "", "one factor for each output row (local scaling)", "With it, one step suits all rows."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout(OptionGroup):
    """How a tensor lies in its data unit, and which others are beside it."""

    TITLE: ClassVar[str] = "where tensors go"

    first_dimension: int = option(
        0,
        Whole(0, 31),
        "D",
        "dimension that is coded as rows",
        "For example 3 for kernels with output channels last.",
        needs=("matrix",),
    )
    join: str = option(
        "",
        Label(),
        "LABEL",
        "code tensors of one label as one (in a rule)",
        "They must have one dtype, and shapes that are equal but for the first dimension.",
        needs=("label",),
    )
    group: str = option(
        "", Label(), "LABEL", "put tensors of one label into an aggregate with a parameter set of its own (in a rule)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLayout(OptionGroup):
    """What is chosen once for a model's stream."""

    TITLE: ClassVar[str] = "the stream as a whole"
    PER_TENSOR: ClassVar[bool] = False

    only: str = option(
        "",
        Pattern(),
        "PATTERN",
        "code the tensors whose whole name matches this regular expression, keep all others as they are",
        "In a stream, others are stored exactly, whatever rules say; in ONNX files and Hugging Face folders, they stay "
        "where they were.",
    )
    blocks: bool = option(
        False, Flag(), "", "weights, biases and batch norms that belong together go into one unit", needs=("block",)
    )
    fold_batchnorm: bool = option(
        False,
        Flag(),
        "",
        "fold batch norms into the layer before",
        "They go into its scaling and bias, and come back as identities with that bias.",
        needs=("batch norm",),
    )
    given_blocks: tuple[Block, ...] = option((), Blocks(), "", "blocks that names do not tell (`nncjit.reduce.Block`)")
    zeros_scope: Scope = option(
        "tensor",
        Word(*get_args(Scope)),
        "WHAT",
        "what zeros is a share of: each tensor, or the whole model in one ranking",
        needs=("zeros",),
    )
    profile: int = option(1, Whole(0, 1), "P", "edition of the standard: 0 is the first, 1 the second")
    references: References = option(
        "auto",
        Word(*get_args(References)),
        "HOW",
        "how units call tensors: by name, or by index into a list",
        '"auto" takes indices in calibrated streams where they are smaller; NNCodec does not read those anyway.',
    )
    compatible: Reader | None = option(
        None,
        Word(*get_args(Reader)),
        "READER",
        "keep to what this reader understands (nncodec), and refuse the rest by name",
        "Tensors that would be stored as they are, because nothing is gained, are coded all the same.",
    )
    max_unit_bytes: int | None = option(
        None, Whole(256, 1 << 31), "N", "split data units above this size into partial data units"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What is chosen for one tensor."""

    fineness: Fineness = Fineness()
    own_fineness: bool = False
    """Whether a rule names how fine this tensor is; otherwise it is as fine as the model, together with the others."""
    quantising: Quantising = Quantising()
    coding: Coding = Coding()
    reducing: Reducing = Reducing()
    layout: Layout = Layout()

    def replace(self, **flat: Any) -> Choices:
        """These choices with some options changed. One of `FinenessKinds` makes the fineness this tensor's own."""
        changes: dict[str, Any] = {
            name: replace(getattr(self, name), **mine)
            for name, group in CHOICE_GROUPS.items()
            if (mine := among(group.rows(), flat))
        }
        if among(FinenessKinds.rows(), flat):
            changes |= {"fineness": Fineness.of(flat, self.fineness), "own_fineness": True}
        return replace(self, **changes)


CHOICE_GROUPS: dict[str, type[OptionGroup]] = {
    "quantising": Quantising,
    "coding": Coding,
    "reducing": Reducing,
    "layout": Layout,
}
"""Fields of `Choices` that are groups of options."""
GROUPS = CHOICE_GROUPS | {"stream": StreamLayout}
"""Fields of `Options` that are groups of options."""
TABLE = FinenessKinds.rows() | {name: row for group in GROUPS.values() for name, row in group.rows().items()}
"""All options by name."""
