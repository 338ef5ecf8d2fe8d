"""The files in a sweep's folder: their names, the trials' records, the lease, the log."""
