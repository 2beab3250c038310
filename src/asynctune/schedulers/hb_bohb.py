"""HyperBand as BOHB needs it (Falkner, Klein, Hutter 2018)."""

from __future__ import annotations

from asynctune.schedulers.hyperband import HyperBandScheduler


class HyperBandForBOHB(HyperBandScheduler):
    """HyperBand for use with :class:`~asynctune.suggest.BOHBSearch`, which suggests what it tries.

    It decides as :class:`HyperBandScheduler` does, which does what BOHB asks for: the largest bracket comes
    first, a trial pauses at its milestone although its bracket is not full, and who survived comes before
    new trials. The name tells that both belong together; the arguments are the same. The searcher
    takes the ``time_attr`` of each result for the budget, so nothing has to be handed over between the two:
    give both the same ``time_attr``.

    A limit to how many trials a searcher has at once counts those that are paused, too. It should let a
    whole bracket in, else brackets are halved with the few that they have.
    """
