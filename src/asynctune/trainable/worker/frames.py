"""The frames exchanged by driver and worker: two lengths, a JSON head and a body.

The body of a frame to the worker may be a pickle; the body of a frame from the worker never is, so the
driver unpickles nothing that user code sent.
"""

from __future__ import annotations

import json
import struct
from typing import Any

HEAD = struct.Struct("!IQ")
"""The lengths in bytes of the head and of the body."""


def frame(head: dict[str, Any], body: bytes = b"") -> bytes:
    """Encode one frame."""
    data = json.dumps(head, separators=(",", ":")).encode()
    return b"".join((HEAD.pack(len(data), len(body)), data, body))
