"""`sluice dlq show`: letters opened with the key, and masked. What is sensitive never leaves this module."""

import asyncio
import sys
from collections.abc import Iterator

from pipeline.ciphers import DecryptionFailed
from pipeline.dead_letters import Letter, unseal
from pipeline.keys import Keys, UnknownKey
from schemas.masking import Mask, visible, without_numbers
from sluice import logs, moments
from sluice.config import Config
from sluice.dlq.letters import Choice, DeadLetter, opened
from sluice.dlq.listing import why
from sluice.exits import Exit, UserError
from sluice.keys import to_decrypt
from sluice.wiring import make_mask


def run(config: Config, name: str, choice: Choice) -> None:
    """Print the chosen letters: where each came from, why it is there, and its record, masked. Blocks.

    Raises UserError, with what could be shown printed: for ids that are not there, for keys that are missing.
    """
    logs.silence()
    asyncio.run(_run(config, name, choice))


async def _run(config: Config, name: str, choice: Choice) -> None:
    wrong: dict[str, Exit] = {}
    async with opened(config, name, choice) as letters:
        found = await letters.find()
        keys = to_decrypt(config) if found.empty < len(found.ids) else Keys.none()
        writer = name if name in config.pipelines else config.routed_topics()[config.streams[name].topics[0]]
        mask = make_mask(config.pipelines[writer])
        async for letter in letters.once(found, again=True):
            try:
                held = unseal(letter.record.value, keys) if letter.record.value is not None else None
            except (UnknownKey, DecryptionFailed) as error:
                held = None
                wrong[str(error)] = Exit.CONFIG if isinstance(error, UnknownKey) else Exit.FAILED
            marked = letter.envelope.origin in found.marked
            sys.stdout.write("\n".join(lines(letter, held, mask, retried=marked)) + "\n")
    if missing := [str(one) for one in sorted(choice.ids) if one not in found.ids]:
        wrong[not_there(letters.topic, missing)] = Exit.FAILED
    if wrong:
        raise UserError("\n".join(wrong), max(wrong.values()))
    if not found.ids:
        sys.stdout.write(f"no such dead letters of {name}\n")


def not_there(topic: str, ids: list[str]) -> str:
    """That letters with these ids are not, or no longer, on the topic."""
    return f"not on {topic}: {', '.join(ids)}; `sluice dlq list FILE NAME --each` prints those that are"


def lines(letter: DeadLetter, held: Letter | None, mask: Mask, *, retried: bool) -> Iterator[str]:
    """A letter for a person to read; `held` is its record, None if that is not to be had."""
    record, envelope = letter.record, letter.envelope
    yield f"{envelope.origin}  {why(envelope.reason, envelope.path)}"
    yield f"  refused by  {_text(envelope.stage)}"
    yield f"  came        {moments.shown(record.timestamp)}, by its producer's clock"
    yield f"  lies at     {letter.at.topic}/{letter.at.partition}/{record.offset}"
    if envelope.retries:
        yield f"  history     fed in again {envelope.retries} times before, first as {envelope.first}"
    if retried:
        yield "  since then  fed in again"
    if held is not None:
        yield f"  key         {_key(held.key)}"
        if held.headers:
            named = ", ".join(f"{_text(name)} ({len(value or b'')} bytes)" for name, value in held.headers)
            yield f"  headers     {named}"
        yield "  value       " + mask(held.value).replace("\n", "\n" + 14 * " ")
    elif record.value is not None:
        yield f"  value       sealed, {len(record.value):,} bytes that cannot be opened"
    else:
        yield f"  value       not in the letter; it may still be at {envelope.origin}"


def _key(key: bytes | None) -> str:
    if key is None:
        return "none"
    try:
        return _text(key.decode())
    except UnicodeDecodeError:
        return f"<{len(key)} bytes>"


def _text(text: str) -> str:
    return visible(without_numbers(text))
