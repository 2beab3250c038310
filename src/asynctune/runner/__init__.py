"""``run`` and ``start``: arguments become a plan, a plan becomes trials, and trials run to their ends."""
