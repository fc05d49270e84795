"""`report.html`: one page, no network, to look at and listen to."""

from pipeline.report.page import build_report

__all__ = ["build_report"]
