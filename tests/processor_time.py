"""Whether a process had a processor, for tests of how long something takes."""

from pathlib import Path


def scheduled(process: int | None = None) -> tuple[float, float]:
    """Return for how many seconds a process, or else this thread, has run, and waited for a processor (Linux)."""
    file = Path("/proc") / ("thread-self" if process is None else str(process)) / "schedstat"
    # Not every kernel counts it.
    ran, waited, _ = file.read_text(encoding="ascii").split() if file.exists() else "000"
    return int(ran) / 1e9, int(waited) / 1e9
