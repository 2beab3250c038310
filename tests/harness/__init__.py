"""The tools of the reliability tests and benchmarks: faults on command, and checks of the damage.

:mod:`harness.faults` is a file system that fails, crashes and loses unsynced data,
:mod:`harness.kills` kills a driver at any byte of its journal,
:mod:`harness.killpoints` spreads such kills over the bytes of a journal and counts the losses,
:mod:`harness.ledger` compares the results that were shown with those that an experiment has,
:mod:`harness.crashes` has trainables that fail or hang in every way,
:mod:`harness.orphans` counts the processes that survive a kill of their driver, and
:mod:`harness.ticks` cancels a task at any turn of the event loop.
"""
