"""Pure: an event's payload, from the values a caller sent to the texts the platform is given.

`check` holds it against the milestone's fields, `fingerprint` keeps what identifies it when the
data themselves are gone, `embedded` makes what is sent, `seal` signs the one value that ties a
response to its link.

`link_id` and `token` are names that follow from the event: the same event, asked for again of a
ledger that was restored from a backup, has the same ones.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, date
from functools import cache
from itertools import islice
from typing import Final
from uuid import UUID

from milepost.errors import InvalidData
from milepost.model import MAX_VALUE_LENGTH, Event, Field, FieldType, Lane, Link, Scalar

REFERENCE_FIELD: Final = "milepost_ref"
"""The embedded data field by which a response is matched to its link."""

MOST_FAULTS: Final = 20
"""Of one event's data that are told at once: who sends other data altogether sees it by these."""

_TAG_BYTES: Final = 10  # of a UUID: what is not its time; 74 of the bits are free
_TOKEN_BYTES: Final = 16
_MAC_BYTES: Final = 10  # 80 bits: nobody can guess one, and the reference stays at 35 characters
_FIXED_BITS: Final = 0xF000_C000_0000_0000_0000
_VERSION_7: Final = 0x7000_8000_0000_0000_0000
_INT64: Final = 2**63
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_NOUN: Final = {
    FieldType.TEXT: "a text",
    FieldType.INTEGER: "a whole number",
    FieldType.NUMBER: "a number",
    FieldType.BOOLEAN: "true or false",
    FieldType.DATE: 'a date such as "2026-11-23"',
}


def present(data: Mapping[str, object]) -> dict[str, Scalar]:
    """The values that are there: `null` means absent.

    Raises:
        InvalidData: a value is a list or an object, or a number beyond 64 bits.
    """
    values: dict[str, Scalar] = {}
    for name, value in data.items():
        if value is None:
            continue
        if not isinstance(value, str | int | float | bool):
            raise InvalidData(
                f"{name!r} holds a list or an object.",
                fix="Send a text, a number, true, false or null.",
                fields=[f"data.{name}"],
            )
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise InvalidData(
                f"{name!r} is a whole number beyond 64 bits.",
                fix="Send it as a text.",
                fields=[f"data.{name}"],
            )
        values[name] = value
    return values


def check(data: Mapping[str, Scalar], fields: Collection[Field]) -> None:
    """Hold an event's data against the declared fields.

    Raises:
        InvalidData: undeclared, missing or ill-typed fields, by name, and what would be right.
    """
    if _is_right(data, fields):
        return
    found = _faults(data, {field.name: field for field in fields})
    faults = list(islice(found, MOST_FAULTS))
    raise InvalidData(
        " ".join(detail for _, detail, _ in faults),
        fields=[f"data.{name}" for name, _, _ in faults],
        fix=" ".join(dict.fromkeys(fix for _, _, fix in faults)),
    )


def _faults(
    data: Mapping[str, Scalar], declared: Mapping[str, Field]
) -> Iterator[tuple[str, str, str]]:
    """Each field that is wrong, what is wrong with it, and what to do."""
    for name, value in data.items():
        if name not in declared:
            only = f"Send only its fields ({', '.join(declared) or 'it has none'}), "
            yield (
                name,
                f"{name!r} is not a field of this milestone.",
                (f"{only}or declare it on the milestone."),
            )
        elif wrong := _wrong(value, declared[name]):
            yield name, f"{name!r} {wrong}", f"Send what fits {name!r}, or declare it otherwise."
    for name, field in declared.items():
        if field.required and name not in data:
            yield name, f"{name!r} is missing.", f"Send {_NOUN[field.type]} as {name!r}."


def _is_right(data: Mapping[str, Scalar], fields: Collection[Field]) -> bool:
    """Whether there is nothing to refuse, which is quicker to see than what there is."""
    declared = 0
    for field in fields:
        if field.name in data:
            declared += 1
            if _wrong(data[field.name], field):
                return False
        elif field.required:
            return False
    return declared == len(data)


def _wrong(value: Scalar, field: Field) -> str | None:
    if not _fits(value, field.type):
        return f"must be {_NOUN[field.type]}."
    length = len(text(value))
    if length > field.max_length:
        return f"has {length} characters, and {field.max_length} are allowed."
    return None


def _fits(value: Scalar, kind: FieldType) -> bool:
    if isinstance(value, bool):
        return kind is FieldType.BOOLEAN
    if isinstance(value, str):
        return kind is FieldType.TEXT or (kind is FieldType.DATE and _is_date(value))
    return kind is FieldType.NUMBER or (kind is FieldType.INTEGER and isinstance(value, int))


def _is_date(value: str) -> bool:
    if not _DATE.fullmatch(value):
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def text(value: Scalar) -> str:
    """A value as the platform is given it; it takes texts only (booleans: observed)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and math.fabs(value) < _INT64:
        return str(int(value))
    return str(value)


def fingerprint(event: Event, key: bytes) -> dict[str, str]:
    """What identifies an event, as one keyed hash for each field of its payload.

    `milestone`, `registrant`, `occurred_at` and each value of `data` count; the deadline and a
    registrant's details do not. Values count with their JSON type: 5 and 5.0 are the same, 5 and
    "5" are not. Keyed, so that a flight number cannot be guessed from its hash once the data are
    erased; 64 bits, since only the fields of one event are ever compared.
    """
    fields = {"milestone": f"s{event.milestone}", "registrant": f"s{event.ref}"}
    if event.occurred_at is not None:
        fields["occurred_at"] = event.occurred_at.astimezone(UTC).isoformat()
    for name, value in event.data.items():
        fields[f"data.{name}"] = f"{'s' if isinstance(value, str) else 'v'}{text(value)}"
    keyed = _keyed(key)
    hashes = {}
    for name, value in fields.items():
        field = keyed.copy()
        field.update(f"{name}\n{value}".encode())
        hashes[name] = field.hexdigest()
    return hashes


@cache
def _keyed(key: bytes) -> hashlib.blake2b:
    """A hash that has taken in the key; to take it in anew for each field would double the work."""
    return hashlib.blake2b(digest_size=8, key=key)


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The fields in which two payloads differ, in alphabetical order."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def embedded(
    data: Mapping[str, Scalar],
    attributes: Mapping[str, str],
    fields: Iterable[Field],
    reference: str,
) -> dict[str, str]:
    """What the platform is given with a link: the declared fields and the link's reference.

    A declared field that the event leaves out is taken from the registrant's attributes, if they
    have it. Empty values are left out, since the platform does not store them (observed).
    """
    values = {
        field.name: text(data[field.name])
        if field.name in data
        else attributes.get(field.name, "")[:MAX_VALUE_LENGTH]
        for field in fields
    }
    return {name: value for name, value in values.items() if value} | {REFERENCE_FIELD: reference}


def naming_key(secret: bytes, fingerprint_key: bytes) -> bytes:
    """The key by which an event's link is named: who lacks the secret cannot tell a token."""
    return hashlib.blake2b(secret, key=fingerprint_key, digest_size=32, person=b"naming").digest()


def link_id(event_id: str, milliseconds: int, key: bytes) -> UUID:
    """The id of an event's link: a UUID of version 7, whose random part follows from the event.

    Args:
        event_id: the event's id.
        milliseconds: since 1970, when the event came.
        key: see `naming_key`.
    """
    hashed = _hashed(event_id.encode(), key, _TAG_BYTES, b"link")
    bits = int.from_bytes(hashed) | milliseconds << 8 * _TAG_BYTES
    return UUID(int=bits & ~_FIXED_BITS | _VERSION_7)


def tag(link: UUID) -> bytes:
    """What all ids that one event could ever have are alike in: all but the time."""
    return link.bytes[-_TAG_BYTES:]


def moment(link: UUID) -> int:
    """When the event of a link came, in milliseconds since 1970."""
    return link.int >> 8 * _TAG_BYTES


def token(link: UUID, key: bytes) -> str:
    """What stands in a link's short URL: 128 bits, as 22 characters that a URL can hold."""
    hashed = _hashed(tag(link), key, _TOKEN_BYTES, b"token")
    return base64.urlsafe_b64encode(hashed).decode().rstrip("=")


def timeless(link: UUID) -> UUID:
    """What the plain link of an event is named by: whenever it is made, it is the same."""
    return UUID(bytes=tag(link).rjust(16, b"\0"))


def _hashed(what: bytes, key: bytes, size: int, person: bytes) -> bytes:
    return hashlib.blake2b(what, key=key, digest_size=size, person=person).digest()


def seal(link: UUID, secret: bytes, *, is_short: bool = False) -> str:
    """The opaque reference of a link: its id and a MAC, 35 characters that a URL can hold.

    Args:
        link: the link's id.
        secret: signs it.
        is_short: its caller has been given a short URL already. That stands nowhere else but in
            the ledger, which may be lost.
    """
    return (
        base64.urlsafe_b64encode(link.bytes + _mac(link, secret, is_short=is_short))
        .decode()
        .rstrip("=")
    )


def reference(link: Link, secret: bytes) -> str:
    """The reference of a link that is being made."""
    return seal(link.id, secret, is_short=link.lane is Lane.DEFERRED)


def reference_beginning(link: UUID) -> str:
    """With what each reference of a link begins, whichever secret signs it: 21 characters."""
    return base64.urlsafe_b64encode(link.bytes).decode()[:21]


def unseal(reference: str, secrets: Iterable[bytes]) -> UUID | None:
    """What a reference names, or None when it was made with none of these secrets.

    It is the link's id; under route `anonymous`, where the reference itself names the link, any.
    """
    found = unseal_whole(reference, secrets)
    return found and found[0]


def unseal_whole(reference: str, secrets: Iterable[bytes]) -> tuple[UUID, bool] | None:
    """As `unseal`, and whether the link's caller had been given a short URL when it was made."""
    try:
        raw = base64.urlsafe_b64decode(reference + "=" * (-len(reference) % 4))
        link = UUID(bytes=raw[:16])
    except ValueError:
        return None
    for secret in secrets:
        for is_short in (False, True):
            if hmac.compare_digest(seal(link, secret, is_short=is_short), reference):
                return link, is_short
    return None


def _mac(link: UUID, secret: bytes, *, is_short: bool) -> bytes:
    name = b"milepost_ref short" if is_short else b"milepost_ref"
    return hmac.digest(secret, name + link.bytes, "sha256")[:_MAC_BYTES]
