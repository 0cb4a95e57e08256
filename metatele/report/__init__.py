"""The report of evaluations: one self-contained page, its figures, and every number as CSV."""

from metatele.report.write import write_report

__all__ = ["write_report"]
