"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass

WARNING, ERROR = "warning", "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    level: str
    """``warning`` or ``error``."""
    evidence: str
    meaning: str
    help: str

    def to_dict(self) -> dict[str, str]:
        """As JSON values."""
        return {"level": self.level, "evidence": self.evidence, "meaning": self.meaning, "help": self.help}


def error_of(evidence: str, meaning: str, advice: str) -> Finding:
    """Something that is wrong."""
    return Finding(level=ERROR, evidence=evidence, meaning=meaning, help=advice)


def warning_of(evidence: str, meaning: str, advice: str) -> Finding:
    """Something that may be wrong."""
    return Finding(level=WARNING, evidence=evidence, meaning=meaning, help=advice)
