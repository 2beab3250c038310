"""The remote copy of an experiment: uploads during a run, downloads for a resume or a fetch."""
