"""Every metric of Sluice, in one table. What each means and how to act on it: docs/operating.md."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

# Otherwise each counter and histogram has a second series, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in the library
REGISTRY = CollectorRegistry()
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)

RECORDS_IN = Counter("sluice_records_in", "Records read from a raw topic.", ["pipeline"], registry=REGISTRY)
RECORDS_OUT = Counter(
    "sluice_records_out", "Records acknowledged on a routed topic.", ["pipeline", "route"], registry=REGISTRY
)
DEAD_LETTERS = Counter(
    "sluice_dead_letters", "Records acknowledged on a dead-letter topic.", ["source", "reason"], registry=REGISTRY
)
DELIVERED = Counter(
    "sluice_delivered_records", "Records that a destination has acknowledged.", ["stream"], registry=REGISTRY
)
DELIVERY_FAILURES = Counter(
    "sluice_delivery_failures", "Records a destination did not take this time; they are tried again.",
    ["stream", "reason"], registry=REGISTRY,
)  # fmt: skip
REPEATS = Counter(
    "sluice_repeats_dropped", "Records that a crash made a router write twice, dropped by a reader.", ["stream"],
    registry=REGISTRY,
)  # fmt: skip
DRIFT = Counter(
    "sluice_drift",
    "Known deviations from a schema that were put right, by kind.",
    ["pipeline", "kind"],
    registry=REGISTRY,
)
LEFT_OUT = Counter(
    "sluice_left_out", "Records that sample or deduplicate left out, as the config says.",
    ["pipeline", "stage"], registry=REGISTRY,
)  # fmt: skip
CARDS_IN_CLEAR = Counter(
    "sluice_cards_in_clear", "Records with a card number in clear that no rule covers.", ["pipeline"], registry=REGISTRY
)
UNLIKE = Counter(
    "sluice_unlike_comparisons", "Comparisons of unlike types in route conditions, which are false.",
    ["pipeline"], registry=REGISTRY,
)  # fmt: skip
UNKNOWN_REFERENCES = Counter(
    "sluice_unknown_references", "Ids that no record of a reference topic had; the fields it fills in are null.",
    ["pipeline", "reference"], registry=REGISTRY,
)  # fmt: skip
KEY_USES = Counter(
    "sluice_key_uses", "Values encrypted and records sealed, by key and version.", ["key", "id"], registry=REGISTRY
)
IGNORED_ENTRIES = Counter(
    "sluice_ignored_entries", "Entries of a reference topic that are no JSON object or hold a field of the wrong type.",
    ["reference"], registry=REGISTRY,
)  # fmt: skip
DELIVERY_SECONDS = Histogram(
    "sluice_delivery_seconds", "From the cut of a delivery to its acknowledgement.", ["stream"],
    buckets=SECONDS, registry=REGISTRY,
)  # fmt: skip
END_TO_END_SECONDS = Histogram(
    "sluice_end_to_end_seconds", "From the record's timestamp to its settlement by this pipeline or stream; "
    "one observation a batch, of its oldest record.", ["name"], buckets=SECONDS, registry=REGISTRY,
)  # fmt: skip
LAG = Gauge("sluice_lag_records", "Offsets between the log's end and the settled offset.", ["topic", "partition"],
            registry=REGISTRY)  # fmt: skip
OLDEST_UNSETTLED = Gauge(
    "sluice_oldest_unsettled_seconds",
    "How long the oldest unsettled record has been in this worker, 0 without one.",
    registry=REGISTRY,
)
BUILD_INFO = Gauge("sluice_build_info", "1, with the version.", ["version"], registry=REGISTRY)
