"""Figures of the paper, drawn from data."""
