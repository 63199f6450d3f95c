"""Reporting: metrics, tables and figures."""
