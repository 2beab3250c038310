"""The names of common export formats."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from asynctune.errors import ConfigError


class ExportFormat(StrEnum):
    """Formats that an ``_export_model`` may know; it may know others."""

    CHECKPOINT = "checkpoint"
    MODEL = "model"
    H5 = "h5"

    @classmethod
    def validate(cls, formats: Sequence[str]) -> list[ExportFormat]:
        """Turn strings into formats, without regard to case and blanks around them.

        Raises:
            ConfigError: One of them is none of these.
        """
        try:
            return [cls(text.strip().lower()) for text in formats]
        except ValueError as exc:
            known = ", ".join(cls)
            raise ConfigError(f"export format unknown: {exc}; known are {known}") from exc
