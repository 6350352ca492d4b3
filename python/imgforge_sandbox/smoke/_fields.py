"""Dataclasses as JSON: every key is known, and every value has its type."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from typing import Any, Dict, List, Mapping, Type, TypeVar, Union

from .._errors import InvalidRequest

R = TypeVar("R", bound="Record")


def absent(default: Any = None) -> Any:
    """A field that has no key in JSON where it is None."""
    return dataclasses.field(default=default, metadata={"absent": True})


class Record:
    """The base of dataclasses that are JSON objects."""

    def to_dict(self) -> Dict[str, Any]:
        """Returns the JSON object, of plain dicts, lists and values."""
        plain: Dict[str, Any] = {}
        for field in _fields(type(self)):
            value = getattr(self, field.name)
            if value is not None or not field.metadata.get("absent"):
                plain[field.name] = _plain(value)
        return plain

    @classmethod
    def from_dict(cls: Type[R], data: Mapping[str, Any]) -> R:
        """Makes it of a JSON object. What is left out has its default.

        Raises `InvalidRequest`, which is a `ValueError`: for a key that is not known, with the
        nearest one that is, for a key that is missing, and for a value of another type.
        """
        return _record(cls, data, "")


def _fields(kind: Type[Any]) -> List[dataclasses.Field[Any]]:
    return list(dataclasses.fields(kind))


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _record(kind: Type[R], data: Any, place: str) -> R:
    if not isinstance(data, Mapping):
        raise _wrong(place, f"an object is needed, not {data!r}")
    hints = typing.get_type_hints(kind)
    values: Dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), list(hints), n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(sorted(hints))}"
            raise _wrong(_below(place, key), f"{kind.__name__} has no such key", hint)
        values[key] = _value(hints[key], value, _below(place, key))
    for field in _fields(kind):
        no_default = field.default is dataclasses.MISSING
        if field.name not in values and no_default and field.default_factory is dataclasses.MISSING:
            raise _wrong(_below(place, field.name), "it is missing")
    return kind(**values)


def _value(kind: Any, value: Any, place: str) -> Any:
    """Reads a value as a type: a record, a list, a mapping, one of several types, or plain."""
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin is Union:
        return _one_of(typing.get_args(kind), value, place)
    if origin is list:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise _wrong(place, f"a list is needed, not {value!r}")
        (item,) = typing.get_args(kind)
        return [_value(item, one, f"{place}[{at}]") for at, one in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(place, f"an object is needed, not {value!r}")
        _, item = typing.get_args(kind)
        return {str(key): _value(item, one, _below(place, key)) for key, one in value.items()}
    if isinstance(kind, type) and issubclass(kind, Record):
        return value if isinstance(value, kind) else _record(kind, value, place)
    return _plain_value(kind, value, place)


def _one_of(kinds: typing.Tuple[Any, ...], value: Any, place: str) -> Any:
    first = None
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
            continue
        try:
            return _value(kind, value, place)
        except InvalidRequest as error:
            first = first or error
    raise first or _wrong(place, f"{value!r} is not allowed")


def _plain_value(kind: Type[Any], value: Any, place: str) -> Any:
    # For Python a truth value is a number.
    is_truth = isinstance(value, bool)
    if kind is float and isinstance(value, (int, float)) and not is_truth:
        return float(value)
    if isinstance(value, kind) and is_truth == (kind is bool):
        return value
    raise _wrong(place, f"{_NAMES.get(kind, kind.__name__)} is needed, not {value!r}")


_NAMES: Mapping[Type[Any], str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _below(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


def _wrong(place: str, message: str, hint: typing.Optional[str] = None) -> InvalidRequest:
    return InvalidRequest(f"`{place}`: {message}" if place else message, hint=hint)
