"""JSON schemas as real clients write them: pydantic's of common annotations, zod's, OpenAPI's, by hand."""

from __future__ import annotations

import datetime
import enum
import ipaddress
import pathlib
import uuid
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pydantic
from pydantic import BaseModel, Field, TypeAdapter

Schema = dict[str, Any]
Item = TypeVar("Item")


class Cat(BaseModel):
    kind: Literal["cat"]
    meow: int


class Dog(BaseModel):
    kind: Literal["dog", "wolf"]
    bark: float | None = None


class Tree(BaseModel):
    value: int
    left: Tree | None = None
    right: Tree | None = None


class Mixed(enum.Enum):
    RED = "red"
    ONE = 1
    NOTHING = None


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Row(NamedTuple):
    x: int
    y: str = "a"


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    total: int


class Odd(BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", title='Qu"ote', json_schema_extra={"examples": [{"a": 1}]})
    größe: int = Field(description='say "x" \\ \n end')
    class_: bool = Field(alias="class")
    dotted: bool = Field(alias="a b-c.d/e")


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    spare: Cat = Field(description="a cat", default=Cat(kind="cat", meow=1))
    pair: tuple[int, str]
    counts: dict[str, int]
    named: dict[Colour, Cat]
    trees: list[Tree] = []


ANNOTATIONS: tuple[Any, ...] = (
    *(Cat, Dog, Tree, Mixed, Colour, Row, Page[Cat], Odd, Owner),
    Annotated[Cat | Dog, Field(discriminator="kind")],
    Literal["a", 1, True, None],
    *(tuple[()], tuple[int, ...], dict[int, str], dict[Literal["x", "y"], int], dict[str, Any]),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, Decimal, bytes),
    *(ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, pathlib.Path, pydantic.SecretStr),
    pydantic.AnyUrl,
    Annotated[Decimal, Field(max_digits=4, decimal_places=2)],
    Annotated[int, Field(gt=0, le=10, multiple_of=2)],
    Annotated[float, Field(gt=0.5, lt=0.75)],
    Annotated[float, Field(ge=1e-9, le=1e-8)],
    Annotated[str, Field(min_length=1, max_length=5, pattern="^a")],
    Annotated[str, Field(pattern=r"^\d+(\.\d+)?$", max_length=8)],
    Annotated[str, Field(pattern=r"^[a-z]+(-[0-9]+)?$")],
    Annotated[list[int], Field(min_length=1, max_length=3)],
    int | str | None | Cat,
    int | float | bool,
)
_KINDS: Schema = {
    name: {"type": "object", "properties": {"k": {"const": name}}, "required": ["k"]} for name in ("c", "d")
}
_NAMES = ('a"b', "back\\slash", "new\nline", "", "ünï", "😀", "a/b~c", "$ref", "enum", "type", "properties")
WRITTEN: tuple[Schema, ...] = (
    {"$defs": _KINDS, "oneOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/d"}]},
    {"type": "integer", "format": "int32", "minimum": 0},
    {"type": "number", "format": "double"},
    {"type": ["string", "null"], "format": "date-time"},
    {"type": "string", "nullable": True, "maxLength": 2},
    {"enum": [f"value-{number}" for number in range(1000)]},
    {"enum": ['"', "\\", "\n", "\0", "\x7f", "é", "😀", "</script>", "\u2028", [], {}, {"ß": [True, None]}, -0.5]},
    {"const": 2**60 + 1},
    {"type": "object", "properties": {name: {"type": "null"} for name in _NAMES}, "required": list(_NAMES)},
    {"type": "object", "properties": {"enum": {"type": "string", "format": "date"}}, "required": ["enum"]},
    {
        "$defs": {"a/b": {"type": "integer"}, "c~d": {"type": "string", "maxLength": 2}, "ü": {"type": "boolean"}},
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{name}"} for name in ("a~1b", "c~0d", "%C3%BC")},
        "required": ["a~1b", "c~0d", "%C3%BC"],
    },
    {
        "$id": "http://example.org/outer",
        "type": "object",
        "properties": {
            "a": {"$id": "http://example.org/inner", "$ref": "#/$defs/q", "$defs": {"q": {"type": "null"}}},
            "b": {"$ref": "#/$defs/q"},
        },
        "required": ["a", "b"],
        "$defs": {"q": {"type": "integer"}},
    },
    {"type": []},
    {"type": "array", "items": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
    {"type": "string", "minLength": 2, "maxLength": 2},
    {"type": "string", "minLength": 20, "maxLength": 30},
    {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "additionalProperties": {"type": "null"}},
)


def client_schemas() -> list[Schema]:
    return [*(TypeAdapter(annotation).json_schema() for annotation in ANNOTATIONS), *WRITTEN]
