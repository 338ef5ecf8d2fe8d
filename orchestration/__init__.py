"""Sweeps over Ray: search space, trials, checkpoints, protocol, console and report. Imports `dfml`, never the reverse."""
