"""The Ray cluster of a sweep: connection, capacity, resources per trial, and why trials wait."""
