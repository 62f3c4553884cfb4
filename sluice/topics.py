"""`sluice topics`: makes the topics that a config needs, or compares those that are there; and says how it went."""

import asyncio
import logging
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka.errors import KafkaConnectionError, KafkaError

from sluice import logs
from sluice.config import Config
from sluice.exits import Exit, UserError
from sluice.wiring import topic_specs
from stream.connection import KafkaConfig
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
    with _LastError() as last:
        try:
            yield
        except KafkaConnectionError:
            raise UserError(unreachable(kafka, last.text), Exit.UNAVAILABLE) from None
        except KafkaError as error:
            reason = str(error) or type(error).__name__
            remedy = (
                f"see that user {kafka.security.username} may" if kafka.security.username else "see that Sluice may"
            )
            text = f"the cluster at {kafka.bootstrap} does not answer as it should: {reason}"
            raise UserError(f"{text}; {remedy} do this there (docs/operating.md)", Exit.UNAVAILABLE) from None
        except (ssl.SSLError, FileNotFoundError, PermissionError) as error:
            text = f"the files of kafka.security cannot be used: {error.strerror or error}"
            raise UserError(f"{text}; correct ca, certificate and key", Exit.CONFIG) from None
        except TimeoutError:
            text = f"the cluster at {kafka.bootstrap} did not answer in time"
            raise UserError(f"{text}; see that all of its brokers run, then try again", Exit.UNAVAILABLE) from None


def unreachable(kafka: KafkaConfig, why: str = "") -> str:
    """One sentence on a cluster that does not answer."""
    reason = f" ({why})" if why else ""
    return (
        f"no Kafka broker answers at {kafka.bootstrap}{reason}; start it, or correct kafka.brokers and kafka.security"
    )


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


class _LastError(logging.Handler):
    """aiokafka logs why a broker could not be reached, and raises something that does not say."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""
        self._logger = logging.getLogger("aiokafka")

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        error = next((one for one in arguments if isinstance(one, BaseException)), None)
        if error is not None and not isinstance(error, KafkaConnectionError):
            self.text = str(error) or type(error).__name__

    def __enter__(self) -> "_LastError":
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.ERROR)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.level, self._logger.propagate = self._before
        self._logger.removeHandler(self)
