"""The command ``asynctune``: what is done to an experiment while no run works on it."""
