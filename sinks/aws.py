"""What clients of AWS share: who they are (credentials, roles), how long a call may take, and what its failures are
called.

boto3 blocks, so every call runs in a thread of the client's own small pool: a service that hangs cannot use up the
event loop's default pool, in which names are resolved.
"""

import asyncio
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol, Self, TypeVar

import boto3
import botocore.exceptions as failures
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.parsers import ResponseParserError
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

CONNECT_SECONDS = 5
READ_SECONDS = 30
THREADS = 8


class AwsConfig(BaseModel):
    """The keys that everything on AWS takes. Without `access_key_id` the standard credential chain decides."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    region: str | None = Field(
        default=None, description="AWS region; else the environment's. With `endpoint_url`: us-east-1."
    )
    endpoint_url: str | None = Field(
        default=None, description="For anything compatible with AWS, and for VPC endpoints."
    )
    access_key_id: str | None = Field(default=None, description="Else the standard credential chain.", repr=False)
    secret_access_key: SecretStr | None = Field(default=None, description="Goes with `access_key_id`.")
    role_arn: str | None = Field(default=None, description="A role to assume, such as one in the customer's account.")
    external_id: str | None = Field(
        default=None, description="The external id that the role's trust policy asks for.", repr=False
    )

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_is_a_url(cls, url: str | None) -> str | None:
        if url is not None and not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s@?#]*)?", url):
            raise ValueError(
                "is no http:// or https:// address of a service; write it as https://HOST:PORT, without credentials"
            )
        return url

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError(
                "access_key_id and secret_access_key go together; give both, or neither for the standard chain"
            )
        if self.external_id is not None and self.role_arn is None:
            raise ValueError("external_id belongs to a role; give role_arn too, or leave it out")
        return self


class Unavailable(Exception):
    """A call that may work later. `reason` is a short code, safe for logs and metrics: the service's own
    (`SlowDown`), or `timeout`, `unreachable`, `credentials`, `region`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def client_settings(config: AwsConfig, session_name: str) -> dict[str, Any]:
    """What to make a boto3 client with: `session(...).client(SERVICE, **client_settings(...))`. One attempt: the
    runner retries."""
    # A custom endpoint rarely has a wildcard certificate and name, which addressing a bucket by host name would need.
    own_endpoint = config.endpoint_url is not None and "amazonaws.com" not in config.endpoint_url
    return {
        "endpoint_url": config.endpoint_url,
        "config": Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=THREADS,
            user_agent_extra=f"sluice/{session_name}",
            s3={"addressing_style": "path" if own_endpoint else "auto"},
        ),
    }


def session(config: AwsConfig, session_name: str) -> boto3.Session:
    """A boto3 session as `config` says, with `role_arn` assumed under `session_name` and renewed before it expires.
    Makes no call.

    STS is asked at AWS (or `AWS_ENDPOINT_URL_STS`), not at `endpoint_url`, which is the service's own.
    """
    region = config.region or ("us-east-1" if config.endpoint_url else None)
    secret = config.secret_access_key.get_secret_value() if config.secret_access_key else None
    base = botocore.session.Session()
    if config.access_key_id and secret:
        base.set_credentials(config.access_key_id, secret)
    if region:
        base.set_config_variable("region", region)
    if config.role_arn is None:
        return boto3.Session(botocore_session=base)
    source = base.get_credentials()
    if source is None:
        raise failures.NoCredentialsError
    arguments = {"RoleSessionName": re.sub(r"[^\w+=,.@-]", "-", f"sluice-{session_name}")[:64]}
    if config.external_id:
        arguments["ExternalId"] = config.external_id

    def sts(service: str, **credentials: Any) -> Any:
        limits = Config(connect_timeout=CONNECT_SECONDS, read_timeout=10, retries={"total_max_attempts": 2})
        return base.create_client(service, region_name=region or "us-east-1", config=limits, **credentials)

    fetcher = AssumeRoleCredentialFetcher(sts, source, config.role_arn, extra_args=arguments)
    assumed = botocore.session.Session()
    # botocore's own way to plug in renewing credentials has no public name: its profiles do the same.
    assumed._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")  # type: ignore[attr-defined]
    if region or base.get_config_variable("region"):
        assumed.set_config_variable("region", region or base.get_config_variable("region"))
    return boto3.Session(botocore_session=assumed)


def code(error: failures.ClientError) -> str:
    """The service's name for a failure (`SlowDown`), or `http-503` where it gives none that could stand in a metric."""
    given = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return given if re.fullmatch(r"[A-Za-z][A-Za-z0-9.]{0,63}", given) else f"http-{status}"


def status(error: failures.ClientError) -> int:
    """The HTTP status of a failed call; 0 if there was none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _named(error: failures.BotoCoreError) -> str:
    match error:
        case failures.ConnectTimeoutError() | failures.ReadTimeoutError():
            return "timeout"
        case failures.NoRegionError():
            return "region"
        case failures.ConnectionError() | failures.HTTPClientError():  # refused, reset, TLS, no such host
            return "unreachable"
        case failures.NoCredentialsError() | failures.PartialCredentialsError() | failures.CredentialRetrievalError():
            return "credentials"
        case _:
            return type(error).__name__


class _Closable(Protocol):
    def close(self) -> None: ...


Client = TypeVar("Client", bound=_Closable)
Result = TypeVar("Result")


class Calls(Generic[Client]):
    """Calls of one boto3 client, each in a thread. `make` makes the client, when it is first needed."""

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._client: Client | None = None
        self._making = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="aws")

    async def call(self, use: Callable[[Client], Result], seconds: float) -> Result:
        """What `use` returns, run in a thread with the client.

        Raises `Unavailable` after `seconds` (the thread may then still complete the call: write only what may come
        late), or when the service cannot be reached or used at all; botocore's ClientError, when the service itself
        says no.
        """
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, self.run, use)
            return await asyncio.wait_for(running, seconds)
        except TimeoutError:
            raise Unavailable("timeout") from None

    def run(self, use: Callable[[Client], Result]) -> Result:
        """What `use` returns, run here: blocks, about as long as the client's time-outs say. Raises as `call` does."""
        try:
            with self._making:
                client = self._client = self._client or self._make()
            return use(client)
        except failures.ParamValidationError:
            raise  # what we asked for is wrong, whatever the service says
        except ResponseParserError:  # some proxy's page, not the service; its text quotes what came
            raise Unavailable("malformed-answer") from None
        except failures.BotoCoreError as error:
            raise Unavailable(_named(error)) from None

    def close(self) -> None:
        """Give up connections; calls still running end on their own time-outs. Safe to call twice."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._making:
            if self._client is not None:
                self._client.close()
                self._client = None
