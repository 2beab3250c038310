"""The record of an experiment: events, journal, trials, analysis, and the copy in a remote storage."""
