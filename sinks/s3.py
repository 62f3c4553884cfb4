"""Amazon S3, and what is compatible with it: each delivery is one object, written once and never overwritten."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.projection import csv_header
from schemas.subjects import Subject
from sinks.aws import AwsConfig, Unavailable, code
from sinks.contract import DELIVERED, Conflict, Delivery, Finding, Verdict
from sinks.s3_bucket import Bucket
from sinks.s3_chain import Epochs
from sinks.s3_object import Compression, Format, Layout, body, is_same, metadata

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHECK_SECONDS = 4


class Rotate(BaseModel):
    """When an object is closed: whichever comes first."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    seconds: float = Field(default=300, gt=0, le=86400, description="Age of the oldest record that waits, in seconds.")
    megabytes: float = Field(default=64, gt=0, le=1024, description="Size before compression, in 1,000,000 bytes.")
    records: int = Field(default=100_000, ge=1, le=10_000_000, description="Records in an object.")


class S3Config(AwsConfig):
    """Where objects go and what they look like."""

    bucket: str = Field(description="The bucket that objects are written to.")
    prefix: str = Field(
        default="", description="What every key begins with, as written: end it with / to make it a folder."
    )
    format: Format = Field(
        default="json",
        description="json: one object a line. csv: a header line, then a row a record. avro: a container with the subject's"
        " newest schema. parquet: a file with its fields.",
    )
    compression: Compression = Field(
        default="none",
        description="none, gzip or zstd: of the whole object for json and csv, of the blocks within for avro and parquet.",
    )
    rotate: Rotate = Field(default=Rotate(), description="When an object is closed.")
    exactly_once: bool = Field(
        default=True,
        description="Decide each cut in the bucket first, and compare what is there. false: at least once, which needs no"
        " right but s3:PutObject.",
    )

    @field_validator("bucket")
    @classmethod
    def _bucket_is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]|arn:[\w:/.-]+", name):
            raise ValueError(
                "is no bucket name; take 3-63 of a-z, 0-9, . and -, without s3:// and path (that is `prefix`)"
            )
        return name

    @field_validator("prefix")
    @classmethod
    def _prefix_fits(cls, prefix: str) -> str:
        if len(prefix.encode()) > 512 or not prefix.isprintable():
            raise ValueError("must be at most 512 bytes of printable text, so that keys fit into S3's 1024")
        return prefix

    @property
    def layout(self) -> Layout:
        """How objects are written that are cut from now on."""
        return Layout(self.prefix, self.format, self.compression)


class S3Sink:
    """Writes each delivery as one object under a key that holds its offsets.

    A repeated write is harmless: the object is found, compared and taken for the delivery's own. `write` raises
    `Conflict` if another object is under its key. With `chain` before it, each record is in the bucket exactly once;
    without, a crash can leave overlapping objects behind.
    """

    def __init__(self, config: S3Config, stream_name: str, subject: Subject) -> None:
        if config.format == "csv":
            csv_header(subject)
        self._config = config
        self._stream = stream_name
        self._subject = subject
        self._bucket = Bucket(config.bucket, config, stream_name)

    @property
    def exactly_once(self) -> bool:
        return self._config.exactly_once

    def epochs(self) -> Epochs:
        """The stream's chains of intents in this bucket, over this sink's connections."""
        return Epochs(self._bucket, self._config.prefix, self._stream)

    async def write(self, delivery: Delivery) -> Sequence[Verdict]:
        """Write the delivery as one object in the layout of the config. All records share one verdict. No records: no
        object."""
        return await self.write_as(delivery, self._config.layout)

    async def write_as(self, delivery: Delivery, layout: Layout) -> Sequence[Verdict]:
        """`write` in another layout: that of an intent, whose cut was decided before the config changed."""
        if not delivery.records:
            return []
        key = layout.key(delivery.topic, delivery.partition, delivery.start, delivery.end)
        about = metadata(delivery)
        try:
            content = await asyncio.to_thread(body, delivery, layout, self._subject)
            written = await self._bucket.put_new(key, content, about, layout.content_type)
            verdict = DELIVERED if written else await self._compare(key, about)
        except Unavailable as error:
            verdict = Verdict("again", error.reason)
        return [verdict] * len(delivery.records)

    async def _compare(self, key: str, about: dict[str, str]) -> Verdict:
        try:
            found = await self._bucket.metadata(key)
        except Unavailable as error:
            if error.reason == "http-403" and not self._config.exactly_once:
                return DELIVERED  # the key names these offsets, and we may not look further
            raise
        if found is None:
            raise Unavailable("object-vanished")
        if is_same(about, found):
            return DELIVERED
        raise Conflict(
            f"s3://{self._config.bucket}/{key} holds other records than those of its offsets (count {found.get('count')},"
            f" expected {about['count']}); move it away, or deliver under another prefix"
        )

    async def check(self) -> Sequence[Finding]:
        """Whether a conditional write works, and what the bucket shows of public access and encryption.

        Leaves one small object behind, `{prefix}_sluice/check`: only a write shows whether writing is allowed.
        """
        try:
            async with asyncio.timeout(10):
                writing, *looks = await asyncio.gather(self._try_writing(), self._public_access(), self._encryption())
        except TimeoutError:
            writing, looks = self._unreachable("timeout"), []
        if writing.level != "ok":
            return [writing]
        if self._config.prefix and not self._config.prefix.endswith("/"):
            looks.append(
                Finding(
                    "warning",
                    f"the prefix {self._config.prefix!r} does not end in /, so readers cannot skip `_sluice` as a folder",
                    "end it with /",
                )
            )
        return [writing, *(look for look in looks if look is not None)]

    async def _try_writing(self) -> Finding:
        name = self._config.bucket
        key = f"{self._config.prefix}_sluice/check"
        try:
            # The first call writes the object or finds it; the second must find it, or conditions mean nothing here.
            await self._bucket.put_new(key, b"", {}, "text/plain")
            if not self._config.exactly_once:
                return Finding("ok", f"bucket {name}: writable")
            if await self._bucket.put_new(key, b"", {}, "text/plain"):
                return Finding(
                    "error",
                    f"bucket {name}: ignores If-None-Match, so objects could be overwritten",
                    "use a service with conditional writes",
                )
            await self._bucket.last_key(key)
            await self._bucket.get(key)
        except Unavailable as error:
            return self._unreachable(error.reason)
        return Finding("ok", f"bucket {name}: writable, with conditional writes")

    def _unreachable(self, reason: str) -> Finding:
        name = self._config.bucket
        match reason:
            case "NoSuchBucket":
                return Finding(
                    "unavailable", f"bucket {name}: does not exist", "create it, or correct `bucket` and `region`"
                )
            case "AccessDenied" | "http-403":
                return Finding(
                    "unavailable",
                    f"bucket {name}: access denied",
                    "grant the rights that docs/sinks.md lists for S3"
                    + (
                        ", or set exactly_once: false if s3:PutObject is all there is"
                        if self._config.exactly_once
                        else ""
                    ),
                )
            case "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "credentials":
                return Finding(
                    "error",
                    f"bucket {name}: no valid credentials ({reason})",
                    "correct access_key_id and secret_access_key, or the environment's credentials",
                )
            case "region":
                return Finding("error", f"bucket {name}: no region is known", "set `region`")
            case "NotImplemented":
                return Finding(
                    "error", f"bucket {name}: has no conditional writes", "use a service that knows If-None-Match"
                )
            case _:
                place = self._config.endpoint_url or "AWS"
                return Finding(
                    "unavailable", f"bucket {name}: cannot be written at {place} ({reason})", "try again later"
                )

    async def _public_access(self) -> Finding | None:
        def look(client: "S3Client") -> Finding:
            answer = client.get_public_access_block(Bucket=self._config.bucket)
            blocked = answer.get("PublicAccessBlockConfiguration", {})
            missing = [name for name in _PUBLIC_ACCESS if not blocked.get(name)]
            if missing:
                return self._may_be_public(f"does not block public access ({', '.join(missing)})")
            return Finding("ok", f"bucket {self._config.bucket}: public access is blocked")

        return await self._look(look, lambda reason: self._may_be_public(f"public access is not known ({reason})"))

    def _may_be_public(self, what: str) -> Finding:
        return Finding("warning", f"bucket {self._config.bucket}: {what}", "block all public access to the bucket")

    async def _encryption(self) -> Finding | None:
        name = self._config.bucket

        def unknown(reason: str) -> Finding:
            remedy = "give the bucket a default encryption"
            return Finding("warning", f"bucket {name}: encryption at rest is not known ({reason})", remedy)

        def look(client: "S3Client") -> Finding:
            rules = (
                client.get_bucket_encryption(Bucket=name).get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
            )
            kinds = {str(rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm")) for rule in rules}
            if not kinds:
                return unknown("no rules")
            return Finding("ok", f"bucket {name}: encrypted at rest ({', '.join(sorted(kinds))})")

        return await self._look(look, unknown)

    async def _look(self, look: Callable[["S3Client"], Finding], unknown: Callable[[str], Finding]) -> Finding | None:
        """What `look` finds; a right that writing does not need, or a setting that is not there, is only unknown."""
        try:
            return await self._bucket.calls.call(look, CHECK_SECONDS)
        except ClientError as error:
            return unknown(code(error))
        except Unavailable:
            return None  # trying to write says it better

    async def close(self) -> None:
        """Give up connections. Safe to call twice."""
        self._bucket.close()


_PUBLIC_ACCESS: Sequence[
    Literal["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"]
] = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
