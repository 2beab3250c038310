"""The command ``asynctune``: inspects, repairs and downloads experiments while no run works on them."""
