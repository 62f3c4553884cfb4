"""Why a record cannot be taken: the closed list of reasons that dead letters carry."""

from typing import Literal, get_args

Reason = Literal[
    "null-value",  # a Kafka tombstone where a record was expected
    "not-json",  # neither JSON in UTF-8 nor Avro framing; NaN and Infinity are no JSON
    "not-avro",  # Avro framing whose body does not fit its schema
    "unknown-schema-id",  # Avro framing with an id that nobody has registered
    "wrong-schema",  # Avro framing with the schema of another subject
    "not-an-object",  # JSON, but no object
    "wrong-type",  # a field holds what its type does not allow
    "too-deep",  # nested beyond what is taken
    "too-large",  # does not fit into a message of its routed topic
    "card-field-missing",  # a field to encrypt is not there on a route that promises it, or what it is bound to
    "card-field-not-a-string",  # a field to encrypt holds no text
    "card-number-in-clear",  # a card number where no rule encrypts, redacts or drops it
    "reference-missing",  # no entry of a reference has the record's id, and its rule asks for one
    "too-large-for-sink",  # a stream's destination takes no record of this size
    "rejected-by-sink",  # a stream's destination refuses this record for good
]
"""Codes of `sluice-reason`. Part of the contract: codes are added, never renamed."""

REASONS: tuple[Reason, ...] = get_args(Reason)


class Refused(Exception):
    """A record that will not be taken, however often it is tried.

    `path` is where (`.transaction.total_price`), made of names from the schema only; "" is the whole record. Holds no value of
    the record. Raised without a cause, because the errors of parsers quote what they read.
    """

    def __init__(self, reason: Reason, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason: Reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"{self.reason} at {self.path}" if self.path else self.reason
