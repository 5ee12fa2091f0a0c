"""Engines turn batches of jobs into words."""
