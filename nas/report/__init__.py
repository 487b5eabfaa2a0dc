"""The report of a run: pareto.png and one self-contained report.html, made from the run folder alone."""

from nas.report.page import write_report

__all__ = ["write_report"]
