"""What is done to a record between raw and routed: decode, enrich, drop, route, encrypt, encode. No I/O, no clock, no Kafka."""
