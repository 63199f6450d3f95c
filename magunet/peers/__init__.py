"""The networks that the paper compares with, and those a user would take instead."""
