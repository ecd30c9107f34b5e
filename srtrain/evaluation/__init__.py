"""Figures of images made into statements: tables, comparisons with intervals, the report."""
