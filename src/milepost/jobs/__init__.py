"""Periodic work, one file for each job; `run_once()` does what is due and returns counts."""
