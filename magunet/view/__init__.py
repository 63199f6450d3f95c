"""Seeing results in 3D, and taking them to other programs."""
