"""What a client of the cluster needs to be allowed (ACLs), and how it is said that something is missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from stream.connection import KafkaConfig

TOPIC_AUTHORIZATION_FAILED = 29


class Operation(IntEnum):
    """Kafka's operations by their codes (org.apache.kafka.common.acl.AclOperation); READ and WRITE include DESCRIBE."""

    READ = 3
    WRITE = 4
    CREATE = 5
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that somebody has to be allowed to do."""

    kind: Literal["topic", "group"]
    name: str
    operation: Operation


class NotAllowed(Exception):
    """ACLs lack something. The text names all of it."""

    def __init__(self, kafka: KafkaConfig, missing: Iterable[Need]) -> None:
        super().__init__(f"{said(kafka, missing)}; grant it with kafka-acls.sh (docs/security.md has the lines)")


def said(kafka: KafkaConfig, missing: Iterable[Need]) -> str:
    """Who lacks what: `Kafka does not allow user router WRITE on topic a, b and READ on group c`."""
    names: dict[tuple[Operation, str], list[str]] = {}
    for one in missing:
        names.setdefault((one.operation, one.kind), []).append(one.name)
    parts = [
        f"{operation.name} on {kind} {', '.join(sorted(found))}" for (operation, kind), found in sorted(names.items())
    ]
    return f"Kafka does not allow {_who(kafka)} {' and '.join(parts)}"


def _who(kafka: KafkaConfig) -> str:
    security = kafka.security
    if security.username:
        return f"user {security.username}"
    if security.certificate:
        return f"the owner of {security.certificate.name}"
    return "this client"


def lacking(needs: Sequence[Need], allowed: Mapping[str, int]) -> list[Need]:
    """Those needs of topics that are not met; `allowed`: for each topic its authorized operations,
    a bit for each code (`stream.metadata`); without an authorizer on the brokers all of them are set."""
    return [one for one in needs if one.kind == "topic" and not allowed.get(one.name, 0) >> one.operation & 1]
