"""The frames between driver and worker: two lengths, a JSON head, a body.

To the worker the body may be a pickle; from the worker it never is.
"""

from __future__ import annotations

import json
import struct
from typing import Any

HEAD = struct.Struct("!IQ")


def frame(head: dict[str, Any], body: bytes = b"") -> bytes:
    """Encode one frame."""
    data = json.dumps(head, separators=(",", ":")).encode()
    return b"".join((HEAD.pack(len(data), len(body)), data, body))
