"""`sluice topics`: makes the topics that a config needs, or compares those that are there; and says how it went."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka.errors import KafkaError

from sluice import logs
from sluice.config import Config
from sluice.exits import Exit, UserError
from sluice.wiring import topic_specs
from stream.connection import KafkaConfig
from stream.diagnosis import Unreachable
from stream.permissions import NotAllowed
from stream.topics import Topics, TopicState

SIGNS = {"ok": "✓", "created": "✓", "grown": "✓", "missing": "✗", "differs": "✗", "failed": "✗"}


def run(config: Config, compare: bool) -> int:
    """Make or compare, print a line for each topic, and return 0, or 1 if one is not as it should be. Blocks.

    Running workers are not disturbed by what is made; a worker finds new partitions by itself. Raises UserError when no
    broker answers.
    """
    logs.silence()
    states = asyncio.run(_run(config, compare))
    width = max(len(one.name) for one in states)
    for one in states:
        detail = f": {one.detail}" if one.detail else ""
        sys.stdout.write(f"{SIGNS[one.state]} {one.name:<{width}}  {one.state}{detail}{remedy(one)}\n")
    return Exit.FAILED if any(SIGNS[one.state] == "✗" for one in states) else Exit.DONE


async def _run(config: Config, compare: bool) -> Sequence[TopicState]:
    specs = topic_specs(config)
    async with cluster(config.kafka) as topics:
        return await (topics.compare(specs) if compare else topics.create(specs))


@asynccontextmanager
async def cluster(kafka: KafkaConfig) -> AsyncIterator[Topics]:
    """The topics of the cluster. Raises UserError, with a remedy, when it cannot be reached or asked."""
    async with answering(kafka), Topics(kafka) as topics:
        yield topics


@asynccontextmanager
async def answering(kafka: KafkaConfig) -> AsyncIterator[None]:
    """Around what asks the cluster: raises UserError, with a remedy, when it cannot be reached or refuses to answer."""
    try:
        yield
    except Unreachable as error:
        raise UserError(str(error), Exit.CONFIG if error.final else Exit.UNAVAILABLE) from None
    except NotAllowed as error:
        raise UserError(str(error), Exit.CONFIG) from None
    except KafkaError as error:
        text = f"the cluster at {kafka.bootstrap} does not answer as it should: {str(error) or type(error).__name__}"
        raise UserError(f"{text}; see that all of its brokers run, then try again", Exit.UNAVAILABLE) from None
    except TimeoutError:
        text = f"the cluster at {kafka.bootstrap} did not answer in time"
        raise UserError(f"{text}; see that all of its brokers run, then try again", Exit.UNAVAILABLE) from None


def remedy(state: TopicState) -> str:
    """What to do about a topic, to stand behind its detail."""
    match state.state:
        case "differs" if "sluice topics" not in state.detail:
            return "; change it with kafka-configs.sh, or the config to match"
        case "failed" if "InvalidReplicationFactor" in state.detail:
            return "; lower kafka.replication, or add brokers"
        case "failed":
            return "; see that Sluice may create topics, then try again"
        case _:
            return ""
