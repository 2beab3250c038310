"""The format of checkpoints in a directory and in a storage."""
