"""The names of common export formats."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from asynctune.errors import ConfigError


class ExportFormat(StrEnum):
    """Common export formats. An ``_export_model`` may support others as well."""

    CHECKPOINT = "checkpoint"
    MODEL = "model"
    H5 = "h5"

    @classmethod
    def validate(cls, formats: Sequence[str]) -> list[ExportFormat]:
        """Convert strings to formats. Case and surrounding blanks are ignored.

        Args:
            formats: The names of the formats.

        Raises:
            ConfigError: One of the strings is none of these formats.
        """
        validated = []
        for text in formats:
            try:
                validated.append(cls(text.strip().lower()))
            except ValueError as exc:
                names = ", ".join(cls)
                raise ConfigError(f"formats must be among {names}, got {text!r}") from exc
        return validated
