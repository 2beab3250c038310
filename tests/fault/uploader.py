"""A process that saves checkpoints to a bucket, one after the other, until the test kills it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import asynctune as tune

FILES, SIZE = 5, 300_000


class Writes(tune.DurableTrainable):
    """Each of its files is full of the number of the iteration."""

    def _train(self):
        return {}

    def _save(self, directory):
        Path(directory, "deep").mkdir()
        for number in range(FILES):
            text = f"{self.iteration:08d}"
            Path(directory, "deep", f"{number}").write_text(text * (SIZE // len(text)))
        return directory


def main(url, options):
    os.environ["ASYNCTUNE_RESULTS_DIR"] = tempfile.mkdtemp(dir=os.environ["PLACE"])
    trainable = Writes(url, {}, storage_options=options)
    while True:
        trainable.train()
        trainable.save()
        print(trainable.iteration, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
