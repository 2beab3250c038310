"""The copy of an experiment in a remote storage: uploads, and what a resume downloads."""
