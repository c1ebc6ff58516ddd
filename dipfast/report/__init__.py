"""What a run came to: for programs, spreadsheets and people. Reads records and images; knows no fit."""

from dipfast.report.current import current_summary, note_current, summary_of
from dipfast.report.page import write_report
from dipfast.report.summary import print_summary, summarize, write_results, write_summary

__all__ = [
    "current_summary",
    "note_current",
    "print_summary",
    "summarize",
    "summary_of",
    "write_report",
    "write_results",
    "write_summary",
]
