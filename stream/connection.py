"""The Kafka cluster: the `kafka:` section of the config, and the arguments that aiokafka's clients take from it."""

import ssl
from pathlib import Path
from typing import Annotated, Any, Literal

from aiokafka.helpers import create_ssl_context
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class SecurityConfig(BaseModel):
    """TLS and SASL. Paths are PEM files; `certificate` and `key` are the client's own, for mutual TLS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Mechanism | None = None
    username: str | None = None
    password: SecretStr | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

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
        return self


class KafkaConfig(BaseModel):
    """The cluster, and how Sluice makes its topics on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    brokers: Annotated[list[str], Field(min_length=1, description="host:port of each broker; name all of them")]
    security: SecurityConfig = SecurityConfig()
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 12
    replication: Annotated[int, Field(ge=1, le=32)] = 3
    retention_hours: Annotated[float, Field(gt=0)] = 168
    max_message_bytes: Annotated[int, Field(ge=65_536, le=1_073_741_824)] = 12 * 1024 * 1024
    session_seconds: Annotated[float, Field(ge=1, le=1800)] = 30
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"

    @model_validator(mode="after")
    def _brokers_have_ports(self) -> "KafkaConfig":
        for broker in self.brokers:
            host, _, port = broker.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"brokers: {broker!r} is not host:port; write for example localhost:9092")
        return self

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
