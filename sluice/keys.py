"""The keys of a process: from where the config says, fit for its rules, and kept up to date while it runs."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from pipeline.keys import DEAD_LETTERS, Keys, KeysError, UnknownKey, key_bytes
from sinks.aws import Unavailable
from sluice.config import Config
from sluice.exits import Exit, UserError
from sluice.key_config import MOST_USES, VARIABLE
from sluice.key_file import KeyFile, parsed
from sluice.kms import DataKeys, unanswered
from sluice.private_memory import keep_memory_private
from stream import metrics

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often a running worker looks whether its keys have changed, or have to."""
USUAL_BYTES = 32


class Source(Protocol):
    """Where the keys of a process come from."""

    keys: Keys
    """Empty before `open`."""

    def open(self) -> None:
        """Get the keys. May block. Raises KeysError, OSError, and Unavailable when they may be there later."""
        ...

    async def look(self, uses: Mapping[tuple[str, str], int]) -> None:
        """Bring `keys` up to date; `uses` is how often they were used since the last look, by name and id. Does not block."""
        ...

    def close(self) -> None:
        """Give up connections. Safe to call twice."""
        ...


class _Fixed:
    """Keys that stay as they are: those of the environment, or none."""

    def __init__(self, with_environment: bool) -> None:
        self.keys = Keys.none()
        self._with_environment = with_environment

    def open(self) -> None:
        if not self._with_environment:
            return
        content = os.environ.get(VARIABLE, "").encode("utf-8", "surrogateescape")
        if not content:
            raise KeysError([f"{VARIABLE} is not set; put the content of a key file there, or use provider: file"])
        self.keys = parsed(content, VARIABLE)
        self.keys.warnings.append(
            f"{VARIABLE} holds keys: the environment can be read in /proc/PID/environ, in crash dumps and by whoever may look at "
            "the container; use provider file or aws-kms where you can"
        )

    async def look(self, uses: Mapping[tuple[str, str], int]) -> None:
        pass

    def close(self) -> None:
        pass


def source_of(config: Config, names: Sequence[str] | None = None) -> Source:
    """Where the keys of these pipelines and streams come from (None: of all), not yet opened.

    The process holds keys from then on: its memory is not dumped, and not read by others.
    """
    keep_memory_private()
    if config.keys is None:
        return _Fixed(with_environment=False)
    if config.keys.provider == "env":
        return _Fixed(with_environment=True)
    if config.keys.provider == "aws-kms":
        return DataKeys(config.keys, sizes_used(config, names))
    return KeyFile(config.keys.path)


def loaded(config: Config, names: Sequence[str] | None = None) -> Keys:
    """The keys for these pipelines and streams (None: for all); none if the config has no `keys:`.

    They stay as they are: nobody follows a key file or replaces data keys. May block. Raises UserError with all that is wrong.
    """
    source = source_of(config, names)
    opened(config, source)
    if problems := list(unfit(config, source.keys, names)):
        raise UserError("\n".join(problems), Exit.CONFIG)
    return source.keys


def to_decrypt(config: Config) -> Keys:
    """All keys that are at hand, whatever the rules ask for; of AWS KMS those that are asked for one by one. May block.

    Raises UserError.
    """
    in_kms = config.keys is not None and config.keys.provider == "aws-kms"
    source = source_of(config, ()) if not in_kms else _unwrapping(config)
    opened(config, source)
    return source.keys


def _unwrapping(config: Config) -> Source:
    """Data keys that are read and never drawn: who decrypts needs no right to make new ones."""
    assert config.keys is not None, "provider aws-kms is said in `keys`"
    keep_memory_private()
    return DataKeys(config.keys, {})


def opened(config: Config, source: Source) -> None:
    """Open a source. May block. Raises UserError, with exit code 69 if it may work later."""
    try:
        source.open()
    except KeysError as error:
        raise UserError("\n".join(error.problems), Exit.CONFIG) from None
    except Unavailable as error:
        raise UserError(unanswered(error), Exit.UNAVAILABLE) from None
    except FileNotFoundError:
        remedy = "make it with `sluice keys new FILE --all`, or correct keys.path"
        raise UserError(f"{config.keys} is not there; {remedy}", Exit.CONFIG) from None
    except OSError as error:
        remedy = "let the user who runs Sluice read it, or correct keys.path"
        raise UserError(f"{config.keys} cannot be read: {error.strerror}; {remedy}", Exit.CONFIG) from None


def unfit(config: Config, keys: Keys, names: Sequence[str] | None = None) -> Iterator[str]:
    """What is wrong with the keys for the rules of these pipelines (None: of all). What is right is in demand from then on."""
    for where, key, algorithm in key_uses(config, names):
        try:
            keys.demand(key, algorithm)
        except UnknownKey:
            yield f"{where} names {key}, which is not there; run `sluice keys new FILE {key}`"
        except KeysError as error:
            yield f"{where}: {error}"


def key_uses(config: Config, names: Sequence[str] | None = None) -> Iterator[tuple[str, str, str]]:
    """The keys that rules of these pipelines (None: of all) name: where in the config, which, and for which algorithm."""
    for name, pipeline in config.pipelines.items():
        if names is None or name in names:
            yield from ((f"pipelines.{name}.{where}", key, algorithm) for where, key, algorithm in pipeline.key_uses())


def sizes_used(config: Config, names: Sequence[str] | None = None) -> dict[str, int]:
    """The keys that rules name, in order, and the one that seals dead letters; with the bytes that each should have."""
    sizes: dict[str, int] = {}
    for _, key, algorithm in key_uses(config, names):
        sizes.setdefault(key, key_bytes(algorithm) or USUAL_BYTES)
    return sizes | {DEAD_LETTERS: USUAL_BYTES}


async def keep(config: Config, source: Source) -> None:
    """Keep the keys of a running worker up to date, and count their uses. Runs until it is cancelled."""
    data_keys = config.keys is not None and config.keys.provider == "aws-kms"
    totals: Counter[tuple[str, str]] = Counter()
    while True:
        uses = source.keys.take_uses()
        for (name, id_), count in uses.items():
            totals[name, id_] += count
            if totals[name, id_] - count < MOST_USES // 2 <= totals[name, id_] and not data_keys:
                log.warning(
                    "%s/%s encrypted %d values in this process alone; if it is of AES-GCM, run `sluice keys rotate FILE %s`.",
                    name, id_, totals[name, id_], name,
                )  # fmt: skip
            # A data key is used by this process alone and not for long: a series for each would be of no use to anybody.
            metrics.KEY_USES.labels(name, "data key" if data_keys else id_).inc(count)
        await source.look(uses)
        await asyncio.sleep(LOOK_SECONDS)
