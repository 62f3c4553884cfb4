"""The `keys` section of a config: where encryption keys come from."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sinks.aws import AwsConfig

VARIABLE = "SLUICE_KEYS"
"""The environment variable of provider env."""
MOST_USES = 1 << 28
"""Of one key with random nonces of 96 bits: the chance that two are equal is then 2^-41."""

_KMS_ONLY = ("kms_key", "data_key_hours", "data_key_uses", *AwsConfig.model_fields)


class KeysConfig(AwsConfig):
    """Where encryption keys come from.

    `region` to `external_id`, `kms_key` and `data_key_...` are for provider aws-kms: a worker asks AWS KMS for a data key of its
    own for each name, and the data key's wrapped form is the key id that stands beside what was encrypted with it. `kms_key`
    has to be given then.
    """

    provider: Literal["file", "env", "aws-kms"] = Field(
        default="file",
        description=f"file: a key file. env: the content of one in the environment variable {VARIABLE}. aws-kms: data keys from"
        " AWS KMS.",
    )
    path: Path = Field(default=Path("keys.yaml"), description="The key file of provider file; mode 0400.")
    kms_key: str | None = Field(
        default=None, description="The symmetric KMS key of provider aws-kms, by id, ARN or alias: `alias/sluice`."
    )
    data_key_hours: float = Field(
        default=24, gt=0, le=24 * 365, description="How long a data key encrypts at most. Replaced at 3/4 of that."
    )
    data_key_uses: int = Field(
        default=50_000_000, ge=1000, le=MOST_USES, description="How many values a data key encrypts at most, likewise."
    )

    @model_validator(mode="after")
    def _suits_its_provider(self) -> Self:
        if self.provider == "aws-kms":
            if self.kms_key is None:
                raise ValueError("provider aws-kms needs a key to ask for; add kms_key: alias/NAME, an id or an ARN")
        elif given := [name for name in _KMS_ONLY if name in self.model_fields_set]:
            raise ValueError(f"{', '.join(given)}: of provider aws-kms; remove it, or set provider: aws-kms")
        if self.provider != "file" and "path" in self.model_fields_set:
            raise ValueError("path is of provider file; remove it")
        return self

    def __str__(self) -> str:
        """Where the keys are, for people."""
        return {"file": str(self.path), "env": VARIABLE, "aws-kms": f"KMS key {self.kms_key}"}[self.provider]
