"""What there is after a run, in numbers and in words."""

from dataclasses import dataclass, field
from pathlib import Path

from data.keys import printable
from data.masks.write import Status


@dataclass
class Summary:
    """What there is after a run.

    Attributes
    ----------
    statuses : dict of int
        Images per status in the shards of the plan's part, those that were there before included.
        Flat is one whose mask is zero by every method.
    failures : list of (key, reason)
        The first of them.
    images : int
        Images that this run did.
    masks, mask_bytes : int
        What it wrote of them: masks of all methods, and their compressed size.
    shards_written, shards_kept, shards_missing : int
        Missing ones are other parts'.
    """

    statuses: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    failures: list[tuple[str, str]] = field(default_factory=list)
    images: int = 0
    masks: int = 0
    mask_bytes: int = 0
    shards_written: int = 0
    shards_kept: int = 0
    shards_missing: int = 0

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())

    @property
    def failed(self) -> int:
        return self.statuses[Status.UNREADABLE] + self.statuses[Status.FAILED]

    def count(self, key: str, status: Status, error: str) -> None:
        """Count one image."""
        self.statuses[status] += 1
        if error and len(self.failures) < 5:
            self.failures.append((key, error))


def report(summary: Summary, out: Path, seconds: float) -> str:
    """Return the closing lines: what was made, what failed, what is still missing.

    Parameters
    ----------
    summary : Summary
    out : Path
        The output folder, as the user named it.
    seconds : float
        How long the run took.
    """
    lines = []
    if summary.shards_kept:
        lines.append(f"{summary.shards_kept} shards were there already.")
    if summary.images:
        each = summary.mask_bytes / max(1, summary.masks) / 1024
        lines.append(
            f"{summary.masks} masks in {seconds:.1f} s ({summary.images / seconds:.1f} images/s), "
            f"{each:.1f} KB a mask, in {printable(str(out))}"
        )
    if summary.statuses[Status.FLAT]:
        lines.append(
            f"{summary.statuses[Status.FLAT]} images have an empty mask: nothing stands out."
        )
    if summary.failed:
        lines.append(f"{summary.failed} images have no mask; the first of them:")
        lines += [f"  {key!r}: {reason}" for key, reason in summary.failures]
    if summary.shards_missing:
        lines.append(
            f"{summary.shards_missing} shards of other parts are not there yet; the part that "
            "finishes last writes index.h5."
        )
    return "\n".join(lines)
