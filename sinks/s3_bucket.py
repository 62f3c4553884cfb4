"""One bucket, as far as Sluice uses it: put what is not there yet, read, look, list. Nothing is ever overwritten or
deleted."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from sinks.aws import AwsConfig, Calls, Unavailable, client_settings, code, session, status

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PUT_SECONDS = 120
"""The most that one upload may take: 64 MB at 0.5 MB/s."""
LOOK_SECONDS = 40


Answer = TypeVar("Answer", bound=Mapping[str, Any])


def _whole(answer: Answer) -> Answer:
    """An answer about one object, which always has its ETag. Without, it was cut off, or comes from something else
    than S3 that says 200 to everything; boto3 takes both for success."""
    if not answer.get("ETag"):
        raise Unavailable("malformed-answer")
    return answer


class Bucket:
    """A bucket. Every method raises `Unavailable` with the service's code for whatever may be cured and tried again,
    rights and a missing bucket included."""

    def __init__(self, name: str, config: AwsConfig, session_name: str) -> None:
        self.name = name

        def make() -> "S3Client":
            return session(config, session_name).client("s3", **client_settings(config, session_name))

        self.calls: Calls[S3Client] = Calls(make)

    async def put_new(self, key: str, body: bytes, metadata: Mapping[str, str], content_type: str) -> bool:
        """Write an object if nothing is under `key`: True. False: something is there already, perhaps our own,
        written by a call whose answer was lost. The write is atomic; one that timed out here may still come late, and
        is then harmless in the same way."""

        def put(client: "S3Client") -> None:
            _whole(
                client.put_object(
                    Bucket=self.name,
                    Key=key,
                    Body=body,
                    Metadata=metadata,
                    ContentType=content_type,
                    IfNoneMatch="*",
                )
            )

        try:
            await self.calls.call(put, PUT_SECONDS)
        except ClientError as error:
            if status(error) == 412:
                return False
            raise Unavailable(code(error)) from None
        return True

    async def get(self, key: str) -> bytes | None:
        """The bytes under `key`, or None if nothing is there. Without the right to list, AWS calls what is missing
        forbidden."""
        try:
            return await self.calls.call(
                lambda client: _whole(client.get_object(Bucket=self.name, Key=key))["Body"].read(), LOOK_SECONDS
            )
        except ClientError as error:
            if code(error) == "NoSuchKey":
                return None
            raise Unavailable(code(error)) from None

    async def metadata(self, key: str) -> Mapping[str, str] | None:
        """The metadata of the object under `key`, or None if nothing is there."""
        try:
            return await self.calls.call(
                lambda client: _whole(client.head_object(Bucket=self.name, Key=key)).get("Metadata", {}), LOOK_SECONDS
            )
        except ClientError as error:
            if status(error) == 404:
                return None
            raise Unavailable(code(error)) from None

    async def last_key(self, prefix: str, after: str = "") -> str | None:
        """The last key, in byte order, that begins with `prefix` and comes after `after`; None if there is none.

        Takes a call for every 1000 keys: S3 lists forwards only.
        """

        def last(client: "S3Client") -> str | None:
            found = None
            for page in client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=prefix, StartAfter=after
            ):
                if "IsTruncated" not in page:
                    raise Unavailable("malformed-answer")
                if contents := page.get("Contents"):
                    found = contents[-1]["Key"]
            return found

        try:
            return await self.calls.call(last, PUT_SECONDS)
        except ClientError as error:
            raise Unavailable(code(error)) from None

    async def folders(self, prefix: str) -> list[str]:
        """The names between `prefix` and the next `/`, of all keys that begin with `prefix`. One call for 1000 of them."""

        def names(client: "S3Client") -> list[str]:
            found = []
            for page in client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=prefix, Delimiter="/"
            ):
                if "IsTruncated" not in page:
                    raise Unavailable("malformed-answer")
                found += [one["Prefix"].removeprefix(prefix).rstrip("/") for one in page.get("CommonPrefixes", [])]
            return found

        try:
            return await self.calls.call(names, LOOK_SECONDS)
        except ClientError as error:
            raise Unavailable(code(error)) from None

    def close(self) -> None:
        """Give up connections. Safe to call twice."""
        self.calls.close()
