"""Types of the fields of records and of other files of results, with their bounds."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema, core_schema

from benchmark.utils.escape import is_plain_line
from benchmark.utils.names import check_name
from benchmark.utils.strict_json import check_plain, shown

_WORDING = {
    "missing": "missing",
    "extra_forbidden": "unknown field",
}
"""What is wrong, by pydantic's type of error, where its message is about Python."""


class FrozenModel(BaseModel):
    """Base of the models that are read from files: immutable, without unknown fields, infinities or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def explain(error: ValidationError) -> str:
    """Return the first mistake of a file as one line: the field, what is wrong with it, and its value."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(shown(part).strip("'") for part in first["loc"]) or "record"
    message = _WORDING.get(first["type"], first["msg"].removeprefix("Value error, ").removeprefix("Input "))
    value = "" if first["type"] in ("missing", "value_error") else f", not {shown(first['input'])}"
    others = error.error_count() - 1
    return f"{field}: {message}{value}{f' (and {others} more)' if others else ''}"


def _check_line(text: str) -> str:
    if not is_plain_line(text):
        raise ValueError("must be one line of text without control characters")
    return text


def _check_time(text: str) -> str:
    try:
        year = datetime.fromisoformat(text).year
    except ValueError:
        raise ValueError("must be a date and time that exist") from None
    if not 1970 <= year < 2200:
        raise ValueError("must be a time between 1970 and 2199")
    return text


Text = Annotated[str, Field(max_length=300), AfterValidator(_check_line)]
"""One line for readers."""
Label = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_check_line)]
"""One line that is a key."""
Name = Annotated[str, AfterValidator(check_name)]
"""Name of a dataset or method."""
Fraction = Annotated[float, Strict(), Field(ge=0.0, le=1.0)]
Count = Annotated[int, Strict(), Field(ge=0, le=10**15)]  # up to here, a float represents every integer
Positive = Annotated[int, Strict(), Field(ge=1, le=10**9)]
NonNegative = Annotated[float, Strict(), Field(ge=0.0, le=1e15)]
Latency = Annotated[float, Strict(), Field(gt=0.0, le=1e9)]
Number = Annotated[float, Strict(), Field(ge=-1e15, le=1e15)]
Pixels = Annotated[int, Strict(), Field(ge=1, le=10_000)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**32)]
Flag = Annotated[bool, Strict()]
IntegerKey = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
"""A positive integer as a JSON key: the K of Recall@K, or a batch size."""
ByK = Annotated[dict[IntegerKey, Fraction], Field(max_length=100)]
"""Recall or precision by K."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RecordId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Time = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|\+00:00)$"),
    AfterValidator(_check_time),
]
"""An ISO 8601 time in UTC."""


class CheckedValues(dict[str, Any]):
    """Plain values that are known to fit into a record."""


def _check_values(values: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    return values if isinstance(values, CheckedValues) else check_plain(handler(values))


Values = Annotated[dict[str, Any], WrapValidator(_check_values)]
"""Plain values of any depth, such as a recipe."""


class PerQuery(Sequence[float | None]):
    """One fraction per query; None for a query that does not count.

    Compact and quick to check, because a leaderboard holds one for each of its records.

    Attributes:
        array: (Q,) read-only values, NaN for None.
    """

    __slots__ = ("array",)

    def __init__(self, values: Iterable[float | None]) -> None:
        """Check and convert the values.

        Raises:
            ValueError: A value is neither None nor a number from 0 to 1.
        """
        items = list(values)
        types = set(map(type, items))
        if not types <= {float, int, type(None)}:
            raise ValueError("must be a list of numbers and nulls")
        self.array: NDArray[np.float64] = np.array(items, dtype=np.float64)
        missing = np.isnan(self.array)
        nulls = items.count(None) if type(None) in types else 0
        if int(missing.sum()) != nulls or not ((self.array >= 0) & (self.array <= 1) | missing).all():
            raise ValueError("every value must be a number from 0 to 1, or null")
        self.array.flags.writeable = False

    @overload
    def __getitem__(self, index: int) -> float | None: ...
    @overload
    def __getitem__(self, index: slice) -> "PerQuery": ...
    def __getitem__(self, index: int | slice) -> "float | PerQuery | None":
        if isinstance(index, slice):
            return PerQuery(self.tolist()[index])
        value = float(self.array[index])
        return None if value != value else value

    def __len__(self) -> int:
        return len(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerQuery) and np.array_equal(self.array, other.array, equal_nan=True)

    def __hash__(self) -> int:
        return hash(self.array.tobytes())

    def __repr__(self) -> str:
        return f"PerQuery({len(self)} values)"

    def tolist(self) -> list[float | None]:
        """Return the values as they were given."""
        return [None if value != value else value for value in self.array.tolist()]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(cls.tolist)
        )

    @classmethod
    def _validate(cls, values: Any) -> "PerQuery":
        if isinstance(values, PerQuery):
            return values
        if not isinstance(values, list | tuple):
            raise ValueError("must be a list of numbers and nulls")
        return cls(values)
