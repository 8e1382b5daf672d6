# /// script
# requires-python = ">=3.11"
# [tool.torpor]
# memory = "768M"
# disk = "128M"
# ///
"""What `torpor bench control` freezes: much that does not compress."""

import os
import zlib

import torpor


@torpor.agent
def hold(mib: int, checkpoint: bool) -> bool:
    """Whether it is what it was after the wait."""
    held = [os.urandom(1 << 20) for _ in range(mib)]
    before = [zlib.crc32(each) for each in held]
    if checkpoint:
        torpor.checkpoint()
    torpor.waitpoint("answer").result()
    return before == [zlib.crc32(each) for each in held]
