"""Stoppers: they decide when a trial, or the whole run, stops."""
