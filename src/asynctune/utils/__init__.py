"""Helpers for people who write trainables."""

from asynctune.utils.validate import validate_save_restore

__all__ = ["validate_save_restore"]
