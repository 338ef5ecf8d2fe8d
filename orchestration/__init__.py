"""Sweeps on Ray, from the search space to the report. It imports `dfml`, never the reverse."""
