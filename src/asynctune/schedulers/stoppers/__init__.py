"""Stoppers: when a trial, or the whole run, stops."""
