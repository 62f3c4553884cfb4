"""Data keys from AWS KMS: drawn for this process, replaced by age and use, and found again by their wrapped form.

Why the id of such a key is its wrapped form: docs/decisions/0008-data-keys-carry-their-own-wrapping.md.
"""

import asyncio
import binascii
import contextlib
import functools
import logging
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from agents.pauses import Pauses
from pipeline.keys import DEAD_LETTERS, Key, Keys, KeysError, UnknownKey
from sinks.aws import Calls, Unavailable, client_settings, code, session, status
from sluice.exits import Exit, UserError
from sluice.key_config import KeysConfig

log = logging.getLogger(__name__)

CALL_SECONDS = 40
"""More than the client's own time-outs, in which a name is looked up too."""
RENEW_AT = 0.75
"""Of its age or its uses: from here on a data key is replaced as soon as KMS gives another; from 1 on work waits for that."""
MOST_UNWRAPPED = 1000
"""Data keys that are remembered to decrypt with: each costs a call. A worker draws a few a day."""
LONGEST_WRAPPED = 6144
"""Bytes that KMS takes."""
_AGAIN = {"ThrottlingException", "LimitExceededException", "RequestLimitExceeded", "TooManyRequestsException"}
"""What KMS answers with 400 and may answer otherwise later."""
_CREDENTIALS = "correct access_key_id and secret_access_key, or the environment's credentials"
_REMEDIES = {
    "NotFoundException": "correct keys.kms_key and keys.region",
    "AccessDeniedException": "allow kms:GenerateDataKey to who encrypts, kms:Decrypt to who decrypts (docs/security.md)",
    "DisabledException": "enable that key in KMS",
    "KMSInvalidStateException": "enable that key in KMS",
    "UnrecognizedClientException": _CREDENTIALS,
    "InvalidSignatureException": _CREDENTIALS,
    "ExpiredTokenException": _CREDENTIALS,
}


class KmsRefuses(KeysError):
    """KMS says no, and will until somebody changes something. `reason` is its code for it."""

    def __init__(self, kms_key: str, reason: str) -> None:
        remedy = _REMEDIES.get(reason, "see what KMS has against it")
        super().__init__([f"KMS refuses to work with {kms_key} ({reason}); {remedy}"])
        self.reason = reason


class Kms:
    """Wraps and unwraps data keys under one KMS key."""

    def __init__(self, config: KeysConfig) -> None:
        assert config.kms_key is not None, "KeysConfig asks for it"
        self._kms_key = config.kms_key

        def make() -> Any:  # KMS's client has a type in another package of stubs only
            return session(config, "keys").client("kms", **client_settings(config, "keys"))

        self._calls: Calls[Any] = Calls(make)
        self.unwrap = functools.lru_cache(MOST_UNWRAPPED)(self._unwrap)
        """From a name and the wrapped form of a data key to the data key. Blocks unless it is remembered. Raises UnknownKey, and
        UserError when KMS cannot be asked."""

    def draw(self, name: str, size: int) -> Key:
        """A new data key, `size` bytes long. Blocks. Raises KmsRefuses and Unavailable."""
        with self._explained():
            return self._drawn(name, self._calls.run(self._generate(name, size)))

    async def draw_soon(self, name: str, size: int) -> Key:
        """As `draw`, without blocking."""
        with self._explained():
            return self._drawn(name, await self._calls.call(self._generate(name, size), CALL_SECONDS))

    def close(self) -> None:
        """Give up connections. Safe to call twice."""
        self._calls.close()

    def _generate(self, name: str, size: int) -> Callable[[Any], Any]:
        return lambda client: client.generate_data_key(
            KeyId=self._kms_key, NumberOfBytes=size, EncryptionContext=context(name)
        )

    @staticmethod
    def _drawn(name: str, answer: dict[str, Any]) -> Key:
        return Key(name, urlsafe_b64encode(answer["CiphertextBlob"]).decode().rstrip("="), answer.pop("Plaintext"))

    def _unwrap(self, name: str, id_: str) -> Key:
        unknown = f"the key id beside the value is no data key of {name!r} under {self._kms_key}"
        remedy = "take the keys, kms_key and region that it was encrypted with"
        wrapped = _bytes_of(id_)
        if not 0 < len(wrapped) <= LONGEST_WRAPPED:
            raise UnknownKey([f"{unknown}; {remedy}"])

        def decrypt(client: Any) -> Any:
            # With KeyId, so that nobody can pass off a data key of their own, wrapped by a KMS key of theirs.
            return client.decrypt(KeyId=self._kms_key, CiphertextBlob=wrapped, EncryptionContext=context(name))

        try:
            with self._explained():
                answer = self._calls.run(decrypt)
        except KmsRefuses as refused:
            if refused.reason in ("InvalidCiphertextException", "IncorrectKeyException"):
                raise UnknownKey([f"{unknown} ({refused.reason}); {remedy}"]) from None
            raise UserError(str(refused), Exit.CONFIG) from None
        except Unavailable as away:
            raise UserError(f"{unanswered(away)}; try again", Exit.UNAVAILABLE) from None
        return Key(name, id_, answer.pop("Plaintext"), active=False)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what KMS says no with into KmsRefuses, or Unavailable where it may say yes later."""
        try:
            yield
        except ClientError as error:
            reason = code(error)
            if status(error) >= 500 or reason in _AGAIN:
                raise Unavailable(reason) from None
            raise KmsRefuses(self._kms_key, reason) from None


def unanswered(error: Unavailable) -> str:
    """What is to be said of a call that came to nothing."""
    match error.reason:
        case "credentials":
            return "there are no credentials for AWS; set keys.access_key_id, or those of the environment"
        case "region":
            return "no region is known for AWS KMS; set keys.region"
        case _:
            return f"AWS KMS does not answer ({error.reason})"


def context(name: str) -> Mapping[str, str]:
    """What a data key is bound to: KMS unwraps it for this key name and purpose alone, writes both into its own log, and policies
    can ask for them."""
    return {"key": name, "purpose": "sluice-dead-letters" if name == DEAD_LETTERS else "sluice-fields"}


def _bytes_of(id_: str) -> bytes:
    """The wrapped data key that an id is; nothing if it is none."""
    try:
        return b64decode(id_ + "=" * (-len(id_) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


@dataclass(slots=True)
class _Held:
    """A data key in use."""

    key: Key
    since: float
    uses: int = 0


class DataKeys:
    """The keys of provider aws-kms: one data key for each name, of this process alone, so that its uses are all counted here."""

    def __init__(
        self, config: KeysConfig, sizes: Mapping[str, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`sizes`: the names that keys are wanted for, and how many bytes each has. `clock`: seconds that never go back."""
        self._kms = Kms(config)
        self.keys = Keys((), self._kms.unwrap)
        self._config = config
        self._sizes = sizes
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._pauses = Pauses()
        self._not_before = 0.0

    def open(self) -> None:
        """Draw the first data keys. Blocks. Raises KmsRefuses and Unavailable."""
        for name, size in self._sizes.items():
            if name not in self._held:
                self._held[name] = _Held(self._kms.draw(name, size), self._clock())
        self._hand_out()
        url = self._config.endpoint_url or ""
        if url.startswith("http://"):
            self.keys.warnings.append(f"data keys come in clear, from {url}; use https://")

    async def look(self, uses: Mapping[tuple[str, str], int]) -> None:
        """Have data keys replaced that are old or much used, and stop all encryption while one is too old or used too much.

        `uses`: how often keys were used since the last look, by name and id.
        """
        for (name, id_), count in uses.items():
            if name in self._held and self._held[name].key.id == id_:
                self._held[name].uses += count
        if self._renewing is not None and self._renewing.done():
            self._renewing.result()
            self._renewing = None
        worn = [name for name, one in self._held.items() if self._spent(one) >= RENEW_AT]
        if worn and self._renewing is None and self._clock() >= self._not_before:
            self._renewing = asyncio.create_task(self._renew(worn))
        self._judge()

    def close(self) -> None:
        """Give up connections. Safe to call twice."""
        if self._renewing is not None:
            self._renewing.cancel()
        self._kms.close()

    def _spent(self, one: _Held) -> float:
        """How much of its age or its uses is gone, whichever is more; 1: all."""
        age = (self._clock() - one.since) / (3600 * self._config.data_key_hours)
        return max(age, one.uses / self._config.data_key_uses)

    async def _renew(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                self._held[name] = _Held(await self._kms.draw_soon(name, self._sizes[name]), self._clock())
                self._hand_out()
                self._judge()
            self._pauses, self._not_before = Pauses(), 0.0
        except (Unavailable, KmsRefuses) as error:
            self._not_before = self._clock() + self._pauses.next()
            if self._pauses.worth_saying():
                said = unanswered(error) if isinstance(error, Unavailable) else str(error)
                log.warning(
                    "%s. Data keys in use serve until they are too old or used too much; then work waits.", said
                )

    def _hand_out(self) -> None:
        self.keys.replace([one.key for one in self._held.values()])

    def _judge(self) -> None:
        over = [name for name, one in self._held.items() if self._spent(one) >= 1]
        paused = f"the data key of {', '.join(over)} may be used no more, and KMS gives no other" if over else ""
        if paused and not self.keys.paused:
            log.error("Work waits: %s.", paused)
        elif self.keys.paused and not paused:
            log.info("Work goes on with new data keys.")
        self.keys.paused = paused
