"""What is compressed, held against the small file that would fill the memory or the disk."""

from pathlib import Path

from research.config import require

ROOM, RATIO = 2**26, 100  # bytes that any file may become, and how often its own size; text and weights are far below


def check_inflation(path: Path, stored: int, becomes: int) -> None:
    """Raises ConfigError where so many `stored` bytes would become too many."""
    said = f"{path} has {stored:,} bytes and would become {becomes:,} or more, over {RATIO} times as many."
    require(becomes <= max(ROOM, RATIO * stored), said)
