"""A Schema Registry with Confluent's REST API, or the files of this tree in its place: schemas by id, and versions under names.

Subjects are named as Confluent's serialisers do it, TOPIC-value
(https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#subject-name-strategy).
"""

import base64
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from schemas.compatibility import Finding, check
from schemas.fields import InvalidSchema
from schemas.subjects import Subject, UnknownSchemaId, Version, id_of, schema_by_id

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
ANSWER_SECONDS = 5.0
ANSWER_BYTES = 4 * 1024 * 1024
LARGEST_ID = 2**31 - 1
NOT_THERE = (400, 404, 406, 422)
"""Answers with an `error_code` that say of what is asked for that it is not there, or cannot be."""
FORBIDDEN = (401, 403)


class RegistryConfig(BaseModel):
    """A Schema Registry. Without it Avro records carry the ids of `schemas/ids.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(
        description="Its address, with the path of Confluent's API: https://HOST[:PORT][/PATH].", repr=False
    )
    username: str | None = Field(default=None, description="For basic authentication.")
    password: SecretStr | None = Field(default=None, description="For basic authentication.")
    ca: Path | None = Field(default=None, description="Certificates to trust, PEM; those of the system without it.")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")) or "@" in url:
            raise ValueError("is no address; write https://HOST[:PORT][/PATH], and a login into username and password")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together; give both or none")
        return self


class RegistryUnavailable(Exception):
    """The registry does not answer as one. The text says how, and what to do."""


class Breaks(Exception):
    """A registry holds a version under our name that ours do not go with. The text says where and why."""


class Unusable(Exception):
    """A registry has a schema with this id, and records of it cannot be read. The text says why."""


class Registry(Protocol):
    """Where schemas are known by id. Every method may block for ANSWER_SECONDS a request, and raises RegistryUnavailable."""

    async def schema(self, number: int) -> Any:
        """The parsed schema with this id, which may be no valid Avro; None if there is none. Raises Unusable."""
        ...

    async def compare(self, subject: Subject, name: str) -> None:
        """Raises Breaks when neither of the newest version there, under `name`, and the newest here only adds to the other."""
        ...

    async def register(self, subject: Subject, name: str) -> Mapping[int, int]:
        """`compare`, then see that the versions stand under `name`, oldest first; returns their ids by version number. One that
        is not there and older than one that is, is left out."""
        ...

    async def close(self) -> None:
        """Give up connections. Safe to call twice."""
        ...


class EmbeddedRegistry:
    """The files of this tree, under the ids that were given to them for ever."""

    async def schema(self, number: int) -> Any:
        try:
            return schema_by_id(number).schema
        except UnknownSchemaId:
            return None

    async def compare(self, subject: Subject, name: str) -> None:
        pass

    async def register(self, subject: Subject, name: str) -> Mapping[int, int]:
        return {version.number: id_of(version) for version in subject.versions}

    async def close(self) -> None:
        pass


class HttpRegistry:
    """A registry by URL: Confluent's, Apicurio's (`/apis/ccompat/v7`), or another with this API."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def schema(self, number: int) -> Any:
        found = await self._ask("GET", f"/schemas/ids/{number}") if number <= LARGEST_ID else None
        if found is None:
            return None
        if found.get("schemaType", "AVRO") != "AVRO":  # left out where it is Avro
            raise Unusable("is Protobuf or JSON Schema, and only Avro is read; produce with an Avro schema")
        if found.get("references"):
            raise Unusable("refers to other schemas, which are not looked up; register it as one whole schema")
        return self._parsed(found)

    async def compare(self, subject: Subject, name: str) -> None:
        newest = await self._ask("GET", f"/subjects/{name}/versions/latest")
        if newest is not None:
            self._must_go_with(subject.latest, self._parsed(newest), name)

    async def register(self, subject: Subject, name: str) -> Mapping[int, int]:
        await self.compare(subject, name)
        looked_up = {version.number: await self._id(version, f"/subjects/{name}") for version in subject.versions}
        ids = {number: id_ for number, id_ in looked_up.items() if id_ is not None}
        # One that is older than what is there is not put behind it: producers that take the latest would go back to it.
        for version in subject.versions[max(ids, default=0) :]:
            made = await self._id(version, f"/subjects/{name}/versions")
            if made is None:
                raise RegistryUnavailable(f"{self._config.url} does not register {version}; see what it is set to")
            ids[version.number] = made
        return ids

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _id(self, version: Version, path: str) -> int | None:
        body = {"schema": json.dumps(version.schema), "schemaType": "AVRO"}
        number = (await self._ask("POST", path, body) or {}).get("id")
        return number if type(number) is int else None

    def _must_go_with(self, ours: Version, theirs: Any, name: str) -> None:
        """One of the two only adds to the other: a worker may be older than what was registered, or newer."""
        try:
            findings: list[Finding] = check(theirs, ours.schema)
            if not findings or not check(ours.schema, theirs):
                return
        except InvalidSchema as error:
            raise Breaks(f"{name} in {self._config.url}: {error}") from None
        first = findings[0]
        raise Breaks(
            f"{ours} breaks what {name} in {self._config.url} promises: {first.path or 'the schema'} {first.text}; "
            f"{first.instead}"
        )

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any] | None:
        """The answer to a request; None for what is not there, in the registry's own words. Raises RegistryUnavailable for
        anything else, and Breaks."""
        where = f"the schema registry at {self._config.url}"
        try:
            async with self._started().request(
                method,
                self._config.url + path,
                json=body,
                allow_redirects=False,
            ) as answer:
                content = bytearray()
                async for piece in answer.content.iter_any():
                    content += piece
                    if len(content) > ANSWER_BYTES:
                        break
        except TimeoutError:
            raise RegistryUnavailable(f"{where} did not answer in {ANSWER_SECONDS:.0f} s; see that it runs") from None
        except (aiohttp.ClientError, OSError) as error:
            raise RegistryUnavailable(f"{where} cannot be reached ({type(error).__name__}); see that it runs") from None
        if answer.status in (NOT_THERE if method == "GET" else (404,)) and self._is_error(content):
            return None
        if answer.status in FORBIDDEN:
            raise RegistryUnavailable(f"{where} refuses the login ({answer.status}); correct username and password")
        if answer.status == 409:  # Confluent's: incompatible
            raise Breaks(
                f"{where} refuses a version that only adds to the one before; set its compatibility to FULL or less"
            )
        found = self._object(content)
        if answer.status != 200 or found is None:  # HTTP's OK
            kind = answer.content_type if found is None else f"error {found.get('error_code', answer.status)}"
            raise RegistryUnavailable(
                f"{where} answers {method} {path} with {answer.status} ({kind}); see that it is one"
            )
        return found

    def _parsed(self, found: Mapping[str, Any]) -> Any:
        text = found.get("schema")
        try:
            return json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            return text  # a name such as "string" may stand there as it is

    @staticmethod
    def _object(content: bytes | bytearray) -> dict[str, Any] | None:
        try:
            found = json.loads(content) if len(content) <= ANSWER_BYTES else None
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _is_error(self, content: bytes | bytearray) -> bool:
        """Whether a 404 is the registry's own word: a wrong path gives one too."""
        return "error_code" in (self._object(content) or {})

    def _started(self) -> aiohttp.ClientSession:
        if self._session is None:
            config = self._config
            headers = {"Content-Type": CONTENT_TYPE}
            if config.username is not None and config.password is not None:
                login = f"{config.username}:{config.password.get_secret_value()}".encode()
                headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
            self._session = aiohttp.ClientSession(
                headers=headers, timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS), connector=_connector(config.ca)
            )
        return self._session


def _connector(ca: Path | None) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(ca)) if ca else True)


def subject_name(topic: str) -> str:
    """The name that Confluent's serialisers give to the values of a topic."""
    return f"{topic}-value"


def opened(config: RegistryConfig | None) -> Registry:
    """The registry of a config; the files of this tree without one."""
    return EmbeddedRegistry() if config is None else HttpRegistry(config)
