"""Measuring live streams: material, a paced load, scores against what was really said, reports.

`benchmarks/` at the root of the repository holds the programs made of it. Scores need the extra ``bench``.
"""
