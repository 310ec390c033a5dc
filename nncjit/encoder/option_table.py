"""The table of options: one row for each, declared as a field of a group of options.

Everything else is made from the rows: defaults and checks, the flags of the command line, what a rule may change, the
axes of ``nncjit eval``, the text of ``help()`` and the reference page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, ClassVar

from nncjit.option_values import Blocks, Flag, Values, checked, parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row."""

    name: str = ""
    """Of the field and of the keyword; with hyphens for underscores also of the flag."""
    default: Any
    values: Values
    metavar: str
    """What stands for the value in the command line's help; empty for flags."""
    does: str
    """What it does, in one sentence without a capital and a full stop."""
    more: str = ""
    """What else one has to know, in sentences."""
    per_tensor: bool = True
    """Whether a rule may change it."""
    needs: tuple[str, ...] = ()
    """What it has no effect without: see `nncjit.encoder.idle_options`."""

    def check(self, value: Any) -> Any:
        """A value, or the text that spells it, as the option keeps it.

        Raises
        ------
        OptionError
            It is none of the option's values.
        """
        if self.default is None and (value is None or (isinstance(value, str) and not value)):
            return None
        return checked(self.name, self.values, value)

    def parse(self, text: str) -> Any:
        """The value that a text of the command line, a rule or a grid means.

        Raises
        ------
        OptionError
            It is none of the option's values.
        """
        if self.default is None and text in ("", "none"):
            return None
        return parsed(self.name, self.values, text)

    def plain(self, value: Any) -> Any:
        """A value as JSON and the command line write it."""
        return None if value is None else self.values.plain(value)

    @property
    def default_text(self) -> str:
        """The default as the command line writes it; empty where the option is not given by default."""
        if self.default in (None, "", ()) or self.is_flag:
            return ""
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.plain(self.default))

    @property
    def about(self) -> str:
        """What it does, in whole sentences."""
        return f"{self.does[:1].upper()}{self.does[1:]}. {self.more}".rstrip()

    @property
    def in_brief(self) -> str:
        """What it does, its values and its default, in one line."""
        default = f"default {self.default_text}" if self.default_text else ""
        limits = "; ".join(filter(None, (self.values.brief, default)))
        return f"{self.does} ({limits})" if limits else self.does

    @property
    def is_flag(self) -> bool:
        return isinstance(self.values, Flag)

    @property
    def has_text(self) -> bool:
        """Whether text can say its value: what needs Python objects is for Python alone."""
        return not isinstance(self.values, Blocks)


def option(
    default: Any,
    values: Values,
    metavar: str,
    does: str,
    more: str = "",
    *,
    per_tensor: bool = True,
    needs: tuple[str, ...] = (),
) -> Any:
    """A field of a group that is an option; see `Option`."""
    row = Option(
        default=default, values=values, metavar=metavar, does=does, more=more, per_tensor=per_tensor, needs=needs
    )
    return field(default=default, metadata={"option": row})


class OptionGroup:
    """Base of dataclasses whose fields are options: values are checked when one is made."""

    __slots__ = ()
    TITLE: ClassVar[str]
    """What the group is about, for the command line's help and the reference."""
    PER_TENSOR: ClassVar[bool] = True
    """Whether rules may change its options."""
    NEEDS: ClassVar[tuple[str, ...]] = ()
    """What options have no effect without that do not say it themselves."""

    @classmethod
    def rows(cls) -> dict[str, Option]:
        """The options of the group by name."""
        return _rows(cls, cls.PER_TENSOR, cls.NEEDS)  # type: ignore[arg-type] # classes are hashable

    def __post_init__(self) -> None:
        for row in self.rows().values():
            object.__setattr__(self, row.name, row.check(getattr(self, row.name)))


@cache
def _rows(group: Any, per_tensor: bool, needs: tuple[str, ...]) -> dict[str, Option]:
    return {
        f.name: replace(row, name=f.name, per_tensor=per_tensor and row.per_tensor, needs=row.needs or needs)
        for f in fields(group)
        if (row := f.metadata.get("option")) is not None
    }


def among(rows: Mapping[str, Option], flat: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that name one of these options."""
    return {name: value for name, value in flat.items() if name in rows}
