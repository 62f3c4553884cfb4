"""Faust on batches: transport, offsets, outbox, readers, metrics. Knows nothing of events or sinks."""
