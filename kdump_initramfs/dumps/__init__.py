"""Afterwards: the dumps that were saved."""
