"""One plug-in of each kind, written as another project would write it: from public names alone."""
