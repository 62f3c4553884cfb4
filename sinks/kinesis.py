"""Amazon Kinesis Data Streams: records one by one, in PutRecords calls. At least once; `sluice_id` tells repeats."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from botocore.exceptions import ClientError
from pydantic import Field, field_validator

from sinks.aws import AwsConfig, Calls, Unavailable, client_settings, code, session
from sinks.contract import DELIVERED, Delivery, Finding, IdField, Outgoing, Verdict

if TYPE_CHECKING:
    from mypy_boto3_kinesis import KinesisClient
    from mypy_boto3_kinesis.type_defs import PutRecordsOutputTypeDef

CALL_RECORDS = 500
CALL_BYTES = 5 * 1024 * 1024
RECORD_BYTES = 1024 * 1024
"""Of one record, its partition key included. Streams may be set to take more since 2025; many endpoints know only
this."""
KEY_CHARACTERS = 256
CALL_SECONDS = 60

TOO_LARGE = Verdict("refused", "too-large")


class KinesisConfig(AwsConfig):
    """The stream that records are put on, and by which key they are spread over its shards."""

    stream: str = Field(description="The name of the stream.")
    partition_key: str | None = Field(
        default=None,
        description="Path of the field that spreads records over shards, such as .endpoint.id; records of one key keep their"
        " order. Without it, and where a record lacks the field, the record's origin: evenly spread, in no order.",
    )
    ordered: bool = Field(
        default=False,
        description="At most one record of a key in a call, so that a throttled record is never overtaken. Many records of"
        " few keys then take many calls.",
    )
    id_field: IdField = Field(
        default="sluice_id", description="Name of the first key, which holds the origin; null: none."
    )

    @field_validator("stream")
    @classmethod
    def _stream_is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,128}", name):
            raise ValueError("is no stream name; take 1-128 of a-z, A-Z, 0-9, _, . and -, and not its ARN")
        return name

    @field_validator("partition_key")
    @classmethod
    def _key_is_a_path(cls, path: str | None) -> str | None:
        if path is not None and not re.fullmatch(r"(\.[A-Za-z_][A-Za-z0-9_]*)+", path):
            raise ValueError("is no path; write it as .endpoint.id")
        return path


class _Entry(NamedTuple):
    position: int
    key: str
    body: bytes
    size: int


class KinesisSink:
    """Puts each record on the stream, its origin spliced in as first key.

    A repeated write is a duplicate with the same `sluice_id`, as is a call whose answer was lost. Order: once a
    record of a key must be tried again, the records of that key in later calls of the delivery are held back (reason
    `behind`). Within a call, Kinesis may take a later record of a key and not an earlier one, unless `ordered` is
    set.
    """

    def __init__(self, config: KinesisConfig, stream_name: str) -> None:
        self._config = config
        self._key = _partition_key(config.partition_key)

        def make() -> "KinesisClient":
            return session(config, stream_name).client("kinesis", **client_settings(config, stream_name))

        self._calls: Calls[KinesisClient] = Calls(make)

    async def write(self, delivery: Delivery) -> Sequence[Verdict]:
        """Put the records, in calls within the service's limits, one after the other; the first that fails as a whole
        ends it."""
        verdicts = [DELIVERED] * len(delivery.records)
        entries = []
        for position, record in enumerate(delivery.records):
            body = record.body(self._config.id_field)
            key = self._key(record)
            size = len(body) + len(key.encode())
            if size > RECORD_BYTES:
                verdicts[position] = TOO_LARGE
            else:
                entries.append(_Entry(position, key, body, size))
        failed_keys: set[str] = set()
        down: Verdict | None = None
        for call in _calls(entries, one_per_key=self._config.ordered):
            sent = []
            for entry in call:
                if down is None and entry.key not in failed_keys:
                    sent.append(entry)
                else:
                    verdicts[entry.position] = down or Verdict("again", "behind")
            if not sent:
                continue
            try:
                errors = await self._put(sent)
            except Unavailable as unavailable:
                down = Verdict("again", "behind")
                errors = [unavailable.reason] * len(sent)
            for entry, error in zip(sent, errors, strict=True):
                if error:
                    verdicts[entry.position] = Verdict("again", error)
                    failed_keys.add(entry.key)
        return verdicts

    async def _put(self, entries: Sequence[_Entry]) -> Sequence[str]:
        """The error code of each entry, empty for those that were taken."""

        def put(client: "KinesisClient") -> "PutRecordsOutputTypeDef":
            return client.put_records(
                StreamName=self._config.stream,
                Records=[{"Data": entry.body, "PartitionKey": entry.key} for entry in entries],
            )

        try:
            answer = await self._calls.call(put, CALL_SECONDS)
        except ClientError as error:
            raise Unavailable(code(error)) from None
        results = answer.get("Records", [])
        if len(results) != len(entries):
            raise Unavailable("malformed-answer")  # whose fate is whose cannot be told
        return [_error(result) for result in results]

    async def check(self) -> Sequence[Finding]:
        """Whether the stream is there. Looking needs kinesis:DescribeStreamSummary; without it that is only a
        warning."""
        name = self._config.stream
        try:
            answer = await self._calls.call(
                lambda client: client.describe_stream_summary(StreamName=name).get("StreamDescriptionSummary", {}), 9
            )
        except ClientError as error:
            return [self._finding(code(error))]
        except Unavailable as error:
            return [self._finding(error.reason)]
        state = answer.get("StreamStatus", "in an unknown state")
        if state not in ("ACTIVE", "UPDATING"):
            return [Finding("unavailable", f"stream {name}: is {state}", "wait until it is ACTIVE")]
        findings = [Finding("ok", f"stream {name}: {state}, {answer.get('OpenShardCount', '?')} shards")]
        if answer.get("EncryptionType", "NONE") == "NONE":
            findings.append(
                Finding("warning", f"stream {name}: not encrypted at rest", "switch on server-side encryption")
            )
        return findings

    def _finding(self, reason: str) -> Finding:
        name = self._config.stream
        match reason:
            case "ResourceNotFoundException":
                return Finding(
                    "unavailable", f"stream {name}: does not exist", "create it, or correct `stream` and `region`"
                )
            case "AccessDeniedException" | "AccessDenied":
                return Finding(
                    "warning",
                    f"stream {name}: may not be looked at; writing may still work",
                    "grant the rights that docs/sinks.md lists for Kinesis",
                )
            case "UnrecognizedClientException" | "InvalidSignatureException" | "credentials":
                return Finding(
                    "error",
                    f"stream {name}: no valid credentials ({reason})",
                    "correct access_key_id and secret_access_key, or the environment's credentials",
                )
            case "region":
                return Finding("error", f"stream {name}: no region is known", "set `region`")
            case _:
                place = self._config.endpoint_url or "AWS"
                return Finding("unavailable", f"stream {name}: not reachable at {place} ({reason})", "try again later")

    async def close(self) -> None:
        """Give up connections. Safe to call twice."""
        self._calls.close()


def _error(result: Any) -> str:
    given = result.get("ErrorCode")
    if not given:
        return ""
    return given if re.fullmatch(r"[A-Za-z]{1,64}", given) else "unknown"


def _calls(entries: Sequence[_Entry], one_per_key: bool) -> Iterator[Sequence[_Entry]]:
    """The entries in calls that the service takes, in order; records of one key in order over the calls."""
    waiting = list(entries)
    while waiting:
        call: list[_Entry] = []
        later: list[_Entry] = []
        size = 0
        keys: set[str] = set()
        for number, entry in enumerate(waiting):
            if len(call) == CALL_RECORDS or size + entry.size > CALL_BYTES:
                later += waiting[number:]
                break
            if one_per_key and entry.key in keys:
                later.append(entry)
                continue
            call.append(entry)
            keys.add(entry.key)
            size += entry.size
        yield call
        waiting = later


def _partition_key(path: str | None) -> Callable[[Outgoing], str]:
    """What gives a record its partition key: the field at `path` as text, else its origin. Never empty, never too
    long."""
    if path is None:
        return lambda record: _fitting(record.origin)
    *outer, last = path.split(".")[1:]
    # Only the fields on the path are decoded; the rest of the record is skipped over.
    kind = msgspec.defstruct("Leaf", [("found", Any, None)], rename={"found": last})
    for name in reversed(outer):
        kind = msgspec.defstruct("Branch", [("found", kind | None, None)], rename={"found": name})
    decode = msgspec.json.Decoder(kind).decode

    def key(record: Outgoing) -> str:
        try:
            value: Any = decode(record.value)
        except msgspec.MsgspecError:  # something else than an object stands on the path
            return _fitting(record.origin)
        while isinstance(value, msgspec.Struct):
            value = value.found  # type: ignore[attr-defined]  # made above
        if value is None or value == "" or isinstance(value, (dict, list)):
            return _fitting(record.origin)
        return _fitting(str(value))

    return key


def _fitting(key: str) -> str:
    return key if len(key) <= KEY_CHARACTERS else hashlib.sha256(key.encode()).hexdigest()
