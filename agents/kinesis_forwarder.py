"""The Kinesis forwarder: small deliveries, at least once, each record under its own `sluice_id`."""

from agents.collector import Limits

LIMITS = Limits(records=500, bytes=4_000_000, seconds=1.0)
"""A delivery is what one PutRecords call takes (500 records, 5 MiB with keys), or what came in a second."""
