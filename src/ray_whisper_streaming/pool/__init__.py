"""Pools run engines and share them between streams."""
