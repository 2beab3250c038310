"""The arguments of a run, checked and resolved before anything starts."""
