"""A customer's HTTP endpoint: one object a request, or an array of them. At least once; `sluice_id` and `webhook-id`
tell repeats."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import io
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, Self
from urllib.parse import SplitResult, urlsplit

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, field_validator, model_validator

from sinks.contract import Delivery, Finding, IdField, Outgoing, Verdict
from sinks.http_answer import verdict
from sinks.http_guard import Blocked, GuardedResolver, literal, may_reach, resolve

CONNECT_SECONDS = 5
ANSWER_BYTES = 64 * 1024
WRITE_SECONDS = 30
"""After so long a write begins no further request, once a record has its verdict: the rest comes again."""

BEHIND = "behind"
_OURS = {
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
}


class HttpConfig(BaseModel):
    """Where requests go, what is in them and who may be reached."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(description="The endpoint, https://HOST[:PORT]/PATH.", repr=False)
    method: Literal["POST", "PUT", "PATCH"] = Field(default="POST", description="The request's method.")
    mode: Literal["rest", "bulk"] = Field(
        default="bulk", description="rest: one JSON object a request. bulk: a JSON array of up to `size`."
    )
    size: int = Field(default=3000, ge=1, le=10_000, description="Records in a bulk request.")
    seconds: float = Field(default=5, gt=0, le=900, description="How long a record may wait for a bulk to fill.")
    headers: Mapping[str, SecretStr] = Field(default={}, description="Sent with every request; values are kept secret.")
    secret: SecretStr | None = Field(
        default=None,
        description="Signs requests as Standard Webhooks do: whsec_ and base64, or plain text.",
    )
    id_field: IdField = Field(
        default="sluice_id", description="Name of the first key, which holds the origin; null: none."
    )
    timeout_seconds: float = Field(default=20, gt=0, le=120, description="The most that one request may take.")
    allow_http: bool = Field(default=False, description="Take http:// too: records then travel unencrypted.")
    allow_private: tuple[IPvAnyNetwork, ...] = Field(
        default=(), description="Networks that are no public ones and may be reached, such as 127.0.0.0/8."
    )
    allow_ports: tuple[int, ...] | None = Field(default=None, description="Ports that may be reached; any without it.")

    @field_validator("headers")
    @classmethod
    def _headers_can_be_sent(cls, headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        for name, value in headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                # Not the whole name: a value may have slipped into it.
                begins = re.split(r"[^\w-]", name, maxsplit=1)[0][:32]
                raise ValueError(f"no header can have the name that begins with {begins!r}; write NAME: VALUE")
            if name.lower() in _OURS:
                raise ValueError(f"{name} is set by Sluice; leave it out")
            if not re.fullmatch(r"[\t\x20-\x7e]*", value.get_secret_value()):
                raise ValueError(f"the value of {name} has characters that no header may hold; use ASCII on one line")
        return headers

    @field_validator("secret")
    @classmethod
    def _secret_is_a_key(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            _signing_key(secret)
        return secret

    @model_validator(mode="after")
    def _url_may_be_reached(self) -> Self:
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            raise ValueError("url cannot be read; write it as https://HOST[:PORT]/PATH") from None
        if parts.scheme not in ("https", "http") or not parts.hostname or re.search(r"\s", self.url):
            raise ValueError("url is no address of an endpoint; write it as https://HOST[:PORT]/PATH")
        if parts.scheme == "http" and not self.allow_http:
            raise ValueError(
                "url is http://, so records would travel unencrypted; use https://, or set allow_http: true"
            )
        if parts.username is not None or parts.password is not None:
            raise ValueError("url holds credentials; give them as `headers: {Authorization: ...}`")
        port = port or (443 if parts.scheme == "https" else 80)
        if self.allow_ports is not None and port not in self.allow_ports:
            raise ValueError(f"url has port {port}, which is not among allow_ports; add it there, or correct the url")
        address = literal(parts.hostname)
        if address is not None and not may_reach(address, self.allow_private):
            raise ValueError(
                f"url leads to {address}, which is no public address; add its network to allow_private if that is meant"
            )
        return self


class HttpSink:
    """Sends records to one endpoint, in order.

    rest sends one after the other; bulk sends arrays of at most `size`. What fails for now stops the delivery there,
    and the records behind it come again with it. A bulk that is refused is halved until the records that are refused
    alone are found. A repeated write is a duplicate: a request whose answer was lost has the same `webhook-id` if it
    is repeated with the same records, and every record its `sluice_id` in any case.
    """

    def __init__(self, config: HttpConfig, stream_name: str) -> None:
        self._config = config
        self._stream = stream_name
        self._parts: SplitResult = urlsplit(config.url)
        self._key = _signing_key(config.secret) if config.secret else None
        self._headers = {
            "content-type": "application/json",
            "user-agent": "Sluice",
            **{name.lower(): value.get_secret_value() for name, value in config.headers.items()},
        }
        self._session: aiohttp.ClientSession | None = None

    @property
    def _place(self) -> str:
        return f"{self._parts.scheme}://{self._parts.netloc}"  # a path may hold a secret

    async def write(self, delivery: Delivery) -> Sequence[Verdict]:
        """Send the records. The first answer that says `again` ends it: the records behind come again too
        (`behind`)."""
        records = delivery.records
        verdicts: list[Verdict] = []
        size = 1 if self._config.mode == "rest" else self._config.size
        waiting = [records[at : at + size] for at in range(0, len(records), size)]
        waiting.reverse()
        enough = time.monotonic() + WRITE_SECONDS
        while waiting:
            if verdicts and time.monotonic() > enough:
                verdicts += [Verdict("again", BEHIND)] * (len(records) - len(verdicts))
                break
            some = waiting.pop()
            answer = await self._send(some)
            if answer.outcome == "again":
                verdicts += [answer] * len(some)
                verdicts += [Verdict("again", BEHIND, answer.after)] * (len(records) - len(verdicts))
                break
            if answer.outcome == "refused" and len(some) > 1:
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]
            else:
                verdicts += [answer] * len(some)
        return verdicts

    async def _send(self, records: Sequence[Outgoing]) -> Verdict:
        body = b",".join([record.body(self._config.id_field) for record in records])
        if self._config.mode == "bulk":
            body = b"[%b]" % body
        try:
            async with self._open().request(
                self._config.method,
                self._config.url,
                data=io.BytesIO(body),  # bytes of more than 1 MB would be sent at one go, which blocks the loop
                headers=_webhook_headers(records, body, self._key),
                allow_redirects=False,
            ) as response:
                now = datetime.now(UTC)
                answer = verdict(response.status, response.headers.get("retry-after"), now)
                await _drain(response)
                return answer
        except TimeoutError:
            return Verdict("again", "timeout")
        except aiohttp.ClientError as error:
            return Verdict("again", _reason(error))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=GuardedResolver(self._config.allow_private), limit=100),
                timeout=aiohttp.ClientTimeout(total=self._config.timeout_seconds, sock_connect=CONNECT_SECONDS),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # answers are thrown away: nobody needs to unpack a bomb
                trust_env=False,
            )
        return self._session

    async def check(self) -> Sequence[Finding]:
        """Whether the endpoint can be connected to, certificate included. Sends no request: any might have an
        effect."""
        host = self._parts.hostname or ""
        port = self._parts.port or (443 if self._parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(9):
                address = (await resolve(host, port, self._config.allow_private))[0]
                tls = ssl.create_default_context() if self._parts.scheme == "https" else None
                _, writer = await asyncio.open_connection(
                    str(address), port, ssl=tls, server_hostname=host if tls else None
                )
                writer.close()
        except Blocked as error:
            return [Finding("error", f"{self._place}: {error}", "add its network to allow_private if that is meant")]
        except ssl.SSLCertVerificationError as error:
            remedy = "the endpoint needs a certificate of a public authority for its name"
            return [Finding("unavailable", f"{self._place}: certificate not valid ({error.verify_message})", remedy)]
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no answer"
            return [
                Finding(
                    "unavailable", f"{self._place}: cannot be connected to ({reason})", "start it, or correct `url`"
                )
            ]
        findings = [Finding("ok", f"{self._place}: can be connected to")]
        if self._parts.scheme == "http":
            findings.append(Finding("warning", f"{self._place}: records travel unencrypted", "use https://"))
        if self._key is None and "authorization" not in self._headers:
            findings.append(
                Finding(
                    "warning",
                    f"{self._place}: requests are not signed",
                    "set `secret`, so that the receiver can tell ours",
                )
            )
        return findings

    async def close(self) -> None:
        """Give up connections. Safe to call twice."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def _signing_key(secret: SecretStr) -> bytes:
    text = secret.get_secret_value()
    if not text.startswith("whsec_"):
        key = text.encode()
    else:
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise ValueError("begins with whsec_, but what follows is no base64; copy it again") from None
    if len(key) < 16:
        raise ValueError(f"holds {len(key)} bytes; a key that nobody can guess has 24 or more")
    return key


def _webhook_headers(records: Sequence[Outgoing], body: bytes, key: bytes | None) -> dict[str, str]:
    """The headers of Standard Webhooks. The id follows from the records' origins alone, so a retry carries the same."""
    origins = "\n".join(record.origin for record in records)
    message = "msg_" + hashlib.sha256(origins.encode()).hexdigest()[:32]
    timestamp = str(int(time.time()))
    headers = {"webhook-id": message, "webhook-timestamp": timestamp}
    if key is not None:
        signed = hmac.digest(key, b"%b.%b.%b" % (message.encode(), timestamp.encode(), body), "sha256")
        headers["webhook-signature"] = "v1," + base64.b64encode(signed).decode()
    return headers


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read what is left of a short answer, so that the connection can be used again. The status has said everything."""
    left = ANSWER_BYTES
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(1):
            while left > 0 and (piece := await response.content.read(left)):
                left -= len(piece)


def _reason(error: aiohttp.ClientError) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return "certificate"
        case aiohttp.ClientConnectorError() if isinstance(error.__cause__, Blocked) or isinstance(
            error.os_error, Blocked
        ):
            return "blocked-address"
        case aiohttp.ClientConnectorError():
            return "unreachable"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "connection-lost"
        case _:
            return "malformed-answer"
