"""What tests of tuning need: faults on command, and judges of what they did. For plug-ins as well.

:mod:`~asynctune.testing.faults` is a file layer that fails, crashes and forgets,
:mod:`~asynctune.testing.kills` kills a driver at any byte of its journal,
:mod:`~asynctune.testing.ticks` cancels at any turn of the event loop,
:mod:`~asynctune.testing.crashes` fails and hangs in every way that a worker can,
:mod:`~asynctune.testing.orphans` counts the processes that a kill leaves alive,
:mod:`~asynctune.testing.scheduling` plays runs for a scheduler and checks its contract, and
:mod:`~asynctune.testing.ledger` tells whether anything that was shown is missing afterwards.
"""
