"""The demo's config and keys: all that the product can do in one file, with the addresses of this run."""

import base64
import os
from pathlib import Path
from typing import Any

import yaml

RAW_EVENTS, RAW_USAGE = "raw.events", "raw.usage"
REFERENCES = {name: f"ref.{name}" for name in ("endpoints", "sims", "imsis", "operators", "users")}
CARD_FIELDS = ("cc_number", "cc_exp", "cc_cvv", "cc_name", "cc_zip")
BUCKETS = ("financial-transactions", "financial-all", "usage")
KINESIS_STREAM = "events"
REGION = "us-east-1"
AWS_CREDENTIALS = {"access_key_id": "demo", "secret_access_key": "demo"}
"""moto takes any."""
CREW: tuple[tuple[str, ...], ...] = (
    ("events",),
    ("events",),
    ("usage",),
    ("s3-fin-transactions", "s3-general", "s3-usage"),
    ("kinesis-events", "http-usage"),
)
"""The worker processes, each with what it runs: few, because the demo has to fit on two cores."""

_ROTATE = {"seconds": 5, "megabytes": 16, "records": 50_000}
_ALL_EVENTS = ["events.success", "events.fail", "events.unmatched"]


def key_name(field: str) -> str:
    """The key that encrypts a card field: `card-number` for `cc_number`."""
    return field.replace("cc_", "card-")


def write_keys(path: Path) -> dict[str, bytes]:
    """Write fresh keys (0400) for every card field and the dead letters; return them by name. Raises FileExistsError."""
    keys = {name: os.urandom(32) for name in (*map(key_name, CARD_FIELDS), "dead-letters")}
    entries = {
        name: [{"id": "demo", "state": "active", "base64": base64.b64encode(key).decode()}]
        for name, key in keys.items()
    }
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
        yaml.safe_dump(entries, file, sort_keys=False)
    return keys


def write_config(path: Path, brokers: str, replication: int, aws: str, receiver: str, secret: str) -> None:
    """Write config.yaml (0600: it holds the receiver's secret). `aws` and `receiver` are `host:port`."""
    config = demo_config(brokers, replication, f"http://{aws}", f"http://{receiver}/usage", secret)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        yaml.dump(config, file, _Plain, sort_keys=False)


class _Plain(yaml.SafeDumper):
    """Writes what is used twice twice: a config that people read has no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def demo_config(brokers: str, replication: int, aws: str, url: str, secret: str) -> dict[str, Any]:
    """The whole config. `aws` and `url` are URLs."""
    place = {"region": REGION, "endpoint_url": aws, **AWS_CREDENTIALS}
    return {
        "kafka": {
            "brokers": brokers.split(","),
            "partitions": 4,
            "replication": replication,
            "session_seconds": 6,  # whose worker was killed waits so long for another
        },
        "keys": {"provider": "file", "path": "keys.yaml"},
        "reference": {name: {"topic": topic} for name, topic in REFERENCES.items()},
        "pipelines": {"events": _events(), "usage": _usage()},
        "metrics": {"listen": "127.0.0.1:0"},
        "streams": {
            "s3-fin-transactions": {
                "from": ["events.success", "events.fail"],
                "s3": {"bucket": BUCKETS[0], "prefix": "fin/", "format": "json", "compression": "gzip",
                       "rotate": _ROTATE, **place},
            },
            "s3-general": {
                "from": _ALL_EVENTS,
                "s3": {"bucket": BUCKETS[1], "format": "csv", "rotate": _ROTATE, **place},
            },
            "s3-usage": {
                "from": ["usage.success"],
                "s3": {"bucket": BUCKETS[2], "format": "csv", "compression": "gzip", "rotate": _ROTATE, **place},
            },
            "kinesis-events": {
                "from": _ALL_EVENTS,
                "where": [{"any": [{"field": ".organisation.id", "op": "equal", "value": 1825},
                                   {"field": ".transaction.result", "op": "equal", "value": False}]}],
                "kinesis": {"stream": KINESIS_STREAM, "partition_key": ".endpoint.id", **place},
            },
            "http-usage": {
                "from": ["usage.success"],
                "http": {"url": url, "mode": "bulk", "size": 3000, "seconds": 2, "secret": secret,
                         "allow_http": True, "allow_private": ["127.0.0.0/8"]},
            },
        },
    }  # fmt: skip


def _events() -> dict[str, Any]:
    sold = {"field": ".transaction.total_price", "op": "greater_or_equal", "value": 0}
    return {
        "from": RAW_EVENTS,
        "schema": "event",
        "enrich": [
            {"by": f".{one}.id", "from": f"{one}s", "into": f".{one}"} for one in ("endpoint", "sim", "imsi", "user")
        ],
        "drop": [".buffer"],
        "routes": {
            "success": [{"field": ".transaction.result", "op": "equal", "value": True}, sold],
            "fail": [{"field": ".transaction.result", "op": "equal", "value": False}, dict(sold)],
        },
        "encrypt": [
            {"field": f".transaction.cc.{field}", "key": key_name(field), "algorithm": "AES-256-CFB",
             "iv_field": f".transaction.cc.{field}_iv"}
            for field in CARD_FIELDS
        ],
    }  # fmt: skip


def _usage() -> dict[str, Any]:
    return {
        "from": RAW_USAGE,
        "schema": "usage",
        "enrich": [
            {"by": f".{one}.id", "from": f"{one}s", "into": f".{one}"} for one in ("endpoint", "sim", "operator")
        ],
    }
