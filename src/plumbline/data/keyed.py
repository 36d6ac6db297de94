"""Random numbers that depend on a key alone: same sample whatever the number of workers, ranks or resumes."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed_generator(seed: int, epoch: int, index: int, purpose: str) -> np.random.Generator:
    """The random numbers of one record in one epoch for one purpose.

    Equal keys give equal numbers whatever the order of calls.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, epoch, index, purpose)))


class KeyedStream:
    """`keyed_generator` for many keys in a row, at a tenth of the price: one generator whose state is reset.

    Philox is a counter under a key (Salmon et al. 2011), so that setting the key is all that a new stream needs.
    """

    def __init__(self, seed: int, purpose: str):
        self.seed = seed
        self.purpose = purpose
        self._philox = np.random.Philox(key=[0, 0])
        self._generator = np.random.Generator(self._philox)
        self._fresh = self._philox.state
        self._key = self._fresh["state"]["key"]

    def at(self, epoch: int, index: int) -> np.random.Generator:
        """The generator of this key; the one handed out before is no longer valid."""
        self._key[:] = _key(self.seed, epoch, index, self.purpose)
        self._philox.state = self._fresh
        return self._generator


def _key(seed: int, epoch: int, index: int, purpose: str) -> np.ndarray:
    """128 bits of the key's digest as two words."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}/{purpose}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype="<u8")
