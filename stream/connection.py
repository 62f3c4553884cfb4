"""The Kafka cluster: the `kafka:` section of the config, and the arguments that aiokafka's clients take from it."""

import ssl
from pathlib import Path
from typing import Annotated, Any, Literal

from aiokafka.helpers import create_ssl_context
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class SecurityConfig(BaseModel):
    """TLS and SASL. Paths are PEM files; `certificate` and `key` are the client's own, for mutual TLS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="SSL: TLS. SASL: with user and password."
    )
    mechanism: Mechanism | None = Field(default=None, description="How the password is shown, with a SASL protocol.")
    username: str | None = Field(default=None, description="Goes with `mechanism` and `password`.")
    password: SecretStr | None = Field(default=None, description="Take it from the environment: ${KAFKA_PASSWORD}.")
    ca: Path | None = Field(
        default=None, description="Who signed the brokers' certificates; the system's list without it."
    )
    certificate: Path | None = Field(default=None, description="The client's own, for mutual TLS.")
    key: Path | None = Field(default=None, description="The private key of `certificate`, without a passphrase.")

    @model_validator(mode="after")
    def _consistent(self) -> "SecurityConfig":
        sasl = self.protocol.startswith("SASL")
        given = [name for name in ("mechanism", "username", "password") if getattr(self, name) is not None]
        if sasl and len(given) < 3:
            missing = sorted({"mechanism", "username", "password"} - set(given))
            raise ValueError(f"protocol {self.protocol} needs {', '.join(missing)} too; add what is missing")
        if given and not sasl:
            raise ValueError(f"{', '.join(given)} has no use with protocol {self.protocol}; set protocol to SASL_SSL")
        if (self.ca or self.certificate) and not self.protocol.endswith("SSL"):
            raise ValueError(
                f"ca and certificate have no use with protocol {self.protocol}; set protocol to SSL or SASL_SSL"
            )
        if self.key and not self.certificate:
            raise ValueError("key has no use without certificate; add the client's certificate, or take key away")
        return self


def _host_and_port(broker: str) -> str:
    host, _, port = broker.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"{broker!r} is not host:port; write for example localhost:9092")
    return broker


class KafkaConfig(BaseModel):
    """The cluster, and how Sluice makes its topics on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    brokers: list[Annotated[str, AfterValidator(_host_and_port)]] = Field(
        min_length=1, description="HOST:PORT of each broker; name all of them."
    )
    security: SecurityConfig = Field(default=SecurityConfig(), description="TLS and SASL; none by default.")
    partitions: int = Field(default=12, ge=1, le=10_000, description="Of every topic that `sluice topics` makes.")
    replication: int = Field(
        default=3,
        ge=1,
        le=32,
        description="Replicas of every topic that `sluice topics` makes; at least 2 must be in sync.",
    )
    retention_hours: float = Field(
        default=168, gt=0, description="How long the topics that `sluice topics` makes keep records, in hours."
    )
    max_message_bytes: int = Field(
        default=12 * 1024 * 1024,
        ge=65_536,
        le=100_000_000,
        description="The largest batch that a topic takes, in bytes. Brokers take no request above their "
        "`socket.request.max.bytes`, 100 MiB by default.",
    )
    session_seconds: float = Field(
        default=30,
        ge=1,
        le=1800,
        description="After so long a worker that is not heard of loses its partitions, in seconds.",
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        default="none", description="Of the batches that Sluice produces."
    )

    @property
    def bootstrap(self) -> str:
        return ",".join(self.brokers)

    @property
    def min_insync_replicas(self) -> int:
        return min(2, self.replication)

    def ssl_context(self) -> ssl.SSLContext | None:
        """None where the protocol has no TLS. Raises OSError or ssl.SSLError for a file that cannot be read."""
        security = self.security
        if not security.protocol.endswith("SSL"):
            return None
        context: ssl.SSLContext = create_ssl_context(
            cafile=str(security.ca) if security.ca else None,
            certfile=str(security.certificate) if security.certificate else None,
            keyfile=str(security.key) if security.key else None,
            password="",  # else OpenSSL asks the terminal for the passphrase of a key that has one
        )
        return context

    def client_arguments(self) -> dict[str, Any]:
        """What every aiokafka client takes: addresses, security and time-outs (`docs/operating.md` says why these)."""
        security = self.security
        return {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": security.protocol,
            "ssl_context": self.ssl_context(),
            "sasl_mechanism": security.mechanism or "PLAIN",
            "sasl_plain_username": security.username,
            "sasl_plain_password": security.password.get_secret_value() if security.password else None,
        }
