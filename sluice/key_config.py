"""The `keys` section of a config: where encryption keys come from."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

VARIABLE = "SLUICE_KEYS"
"""The environment variable of provider env."""


class KeysConfig(BaseModel):
    """Where encryption keys come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: Literal["file", "env", "aws-kms"] = Field(
        default="file",
        description=f"file: a key file. env: the content of one in the environment variable {VARIABLE}. aws-kms does not work"
        " yet.",
    )
    path: Path = Field(default=Path("keys.yaml"), description="The key file of provider file; mode 0400.")

    @model_validator(mode="after")
    def _suits_its_provider(self) -> Self:
        if self.provider == "aws-kms":
            raise ValueError("keys from aws-kms are not supported yet; use provider: file, and mount the key file")
        if self.provider == "env" and "path" in self.model_fields_set:
            raise ValueError("path is of provider file; remove it")
        return self

    def __str__(self) -> str:
        """Where the keys are, for people."""
        return str(self.path) if self.provider == "file" else VARIABLE
