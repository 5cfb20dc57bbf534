"""Reports on several versions that were measured on the same examples, as one HTML or Markdown file."""

from ftreg.evaluation.report.facts import Ancestor, Candidate, Difference, Estimate, Figure, Report, Training, Verdict
from ftreg.evaluation.report.files import check_report_path, write_report

__all__ = [
    "Ancestor",
    "Candidate",
    "Difference",
    "Estimate",
    "Figure",
    "Report",
    "Training",
    "Verdict",
    "check_report_path",
    "write_report",
]
