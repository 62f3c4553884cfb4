"""What of a consumer should get on now, and by what one sees that it does: what the watchdog looks at."""

from stream.assignment import Assignment, Partition
from stream.transport import Consumer
from stream.watchdog import Stage

PLACING_SECONDS = 600.0
"""What finding out where partitions go on may take on top: a stream to S3 lists its chains in the bucket."""


def stages(name: str, consumer: Consumer) -> dict[str, Stage]:
    """The stages of the workload `name` that have something to do. Made anew at each look; nothing is counted by record."""
    assignment = consumer.current
    without = not consumer.joined or consumer.draining or consumer.generation == -1
    if without or (assignment is not None and assignment.ended):
        allowance = PLACING_SECONDS if consumer.placing else 0.0
        return {f"{name}: membership of the group": Stage((consumer.generation, consumer.placing), allowance)}
    if assignment is None:
        return {}  # stands by
    found: dict[str, Stage] = {}
    if any(partition.uncommitted() for partition in assignment.partitions.values()):
        found[f"{name}: commit"] = Stage(consumer.commits_stored)
    for partition in assignment.partitions.values():
        where = f"{partition.topic}/{partition.number}"
        if assignment.feeds(partition):
            signs = (assignment.pin, partition.fetched_to, consumer.last_fetch(partition.tp))
            found[f"{name}: fetch of {where}"] = Stage(signs)
        if partition.on_its_way:
            # Of its own: who waits for a batch by the clock asks again and again, and seems to get on.
            found[f"{name}: hand-over of {where}"] = Stage((assignment.pin, partition.delivered_to))
        if not partition.idle:
            found[f"{name}: work on {where}"] = _work(assignment, partition)
    return found


def _work(assignment: Assignment, partition: Partition) -> Stage:
    signs = (
        assignment.pin,
        partition.steps,
        partition.offset,
    )  # not what is fetched: that goes on while the work stands
    return Stage(signs, partition.expected_seconds, partition.in_work())
