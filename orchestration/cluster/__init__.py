"""The Ray cluster that a sweep runs on: which, what it holds, what a trial gets of it, and why one waits."""
