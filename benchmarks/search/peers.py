"""Ray Tune's and Optuna's own schedulers and searchers, on the same table, in virtual time.

Run by search_quality.py with a Python that has ray[tune] and optuna, and nothing of ours. The script reads
one JSON object from standard input and writes one line of JSON for each case. The script simulates the
work of Ray's controller around a scheduler and searcher (`tune_controller.py` of 2.60). The controller
keeps trials pending, up to 200 without a searcher and one with, lets the scheduler choose among those that
are pending or paused, and starts any pending one if it does not. Starting, saving and restoring take no
time, as in our own cases. For Optuna the script runs a loop of ask, report, should_prune and tell.
"""

import heapq
import itertools
import json
import logging
import math
import random
import sys
import types
import warnings

import numpy as np

PENDING, RUNNING, PAUSED, TERMINATED = "PENDING", "RUNNING", "PAUSED", "TERMINATED"
METRIC = "accuracy"


class Table:
    """The curves, and the nearest curve of a configuration, by the rule of asynctune's Curves."""

    def __init__(self, told):
        self.seconds = told["seconds"]
        self.accuracy = told["accuracy"]
        self.domains = told["domains"]
        self.places = np.array([self.place(config) for config in told["configs"]])
        self.best = max(map(max, self.accuracy))
        for config, number in told["check"]:
            assert self.find(config) == number, (config, number)

    def place(self, config):
        place = []
        for name, domain in self.domains.items():
            value = config[name]
            if domain["words"]:
                place += [math.sqrt(0.5) * (value == word) for word in domain["words"]]
                continue
            low, high = domain["low"], domain["high"]
            within = min(max(value, low), high)
            if domain["log"]:
                place.append(math.log(within / low) / math.log(high / low))
            else:
                place.append((within - low) / (high - low))
        return place

    def find(self, config):
        return int(((self.places - np.array(self.place(config))) ** 2).sum(axis=1).argmin())


class Clock:
    """The future ends of epochs, and the best accuracy at each time at which it rose."""

    def __init__(self, table, limit):
        self.table = table
        self.limit = limit
        self.now = 0.0
        self.trace = []
        self._ahead = []
        self._count = itertools.count()

    def step(self, trial):
        """Let a trial train its next epoch."""
        seconds = self.table.seconds[trial.curve][trial.epoch]
        heapq.heappush(self._ahead, (self.now + seconds, next(self._count), trial))

    def next(self):
        """Return the trial whose epoch ends next; None when the time is over."""
        if not self._ahead:
            return None
        self.now, _, trial = heapq.heappop(self._ahead)
        if self.now > self.limit:
            return None
        accuracy = self.table.accuracy[trial.curve][trial.epoch]
        trial.epoch += 1
        if not self.trace or accuracy > self.trace[-1][1]:
            self.trace.append([self.now, accuracy])
        return trial

    def value(self, trial):
        return self.table.accuracy[trial.curve][trial.epoch - 1]

    def is_done(self, trial):
        return trial.epoch >= len(self.table.seconds[trial.curve])


# -- Ray Tune -------------------------------------------------------------------------------------


class RayTrial:
    """The part of a trial that schedulers read."""

    def __init__(self, number, config, curve):
        self.trial_id = f"{number:05d}"
        self.config = config
        self.curve = curve
        self.epoch = 0
        self.status = PENDING
        self.is_saving = False
        self.last_result = {}
        self.evaluated_params = {}
        self.experiment_tag = self.trial_id
        self.temporary_state = types.SimpleNamespace(saving_to=None)
        manager = types.SimpleNamespace(
            checkpoint_config=types.SimpleNamespace(num_to_keep=None),
            _latest_checkpoint_result=None,
        )
        self.run_metadata = types.SimpleNamespace(checkpoint_manager=manager)

    @property
    def checkpoint(self):
        return types.SimpleNamespace(epoch=self.epoch)

    def is_finished(self):
        return self.status == TERMINATED

    def set_experiment_tag(self, tag):
        self.experiment_tag = tag

    def set_config(self, config):
        self.config = config

    def __str__(self):
        return self.trial_id


class RayController:
    """The part of the TuneController that schedulers call."""

    def __init__(self, clock, scheduler, *, searcher, draw, workers, population):
        self.clock = clock
        self.scheduler = scheduler
        self.searcher = searcher
        self.draw = draw
        self.workers = workers
        self.population = population
        self.pending_limit = 1 if searcher is not None else 200
        self.trials = []
        self.live = []
        self.running = 0
        self.search_alg = None

    def get_trials(self):
        return self.trials

    def get_live_trials(self):
        return {trial for trial in self.live if trial.status != TERMINATED}

    def stop_trial(self, trial):
        if trial.status == TERMINATED:
            return
        if trial.status in (PENDING, PAUSED):
            self.scheduler.on_trial_remove(self, trial)
        else:
            self.running -= 1
            self.scheduler.on_trial_complete(self, trial, trial.last_result)
        if self.searcher is not None:
            self.searcher.on_trial_complete(trial.trial_id, result=trial.last_result or None)
        trial.status = TERMINATED

    def pause_trial(self, trial, should_checkpoint=True):
        if trial.status == RUNNING:
            self.running -= 1
        trial.status = PAUSED

    def _schedule_trial_save(self, trial, result=None):
        return trial.checkpoint

    def run(self):
        """Advance the time until its limit, or until no work is left."""
        self.fill()
        while (trial := self.clock.next()) is not None:
            if trial.status == RUNNING:
                self.decider(trial)
            self.fill()

    def decider(self, trial):
        result = {
            METRIC: self.clock.value(trial),
            "training_iteration": trial.epoch,
            "trial_id": trial.trial_id,
            "done": self.clock.is_done(trial),
        }
        decision = "STOP" if result["done"] else self.scheduler.on_trial_result(self, trial, result)
        trial.last_result = result
        if decision != "STOP" and self.searcher is not None:
            self.searcher.on_trial_result(trial.trial_id, result)
        if decision == "CONTINUE":
            self.clock.step(trial)
        elif decision == "PAUSE":
            self.pause_trial(trial)
        elif decision == "STOP":
            self.stop_trial(trial)

    def fill(self):
        """Draw trials ahead, and give free workers to the trials that the scheduler chooses."""
        self.top_up()
        while self.running < self.workers:
            self.live = [trial for trial in self.live if trial.status != TERMINATED]
            chosen = self.scheduler.choose_trial_to_run(self)
            if chosen is None:
                chosen = next((trial for trial in self.live if trial.status == PENDING), None)
            if chosen is None:
                return
            self.start(chosen)
            self.top_up()

    def top_up(self):
        waiting = sum(trial.status == PENDING for trial in self.live)
        while waiting < self.pending_limit and len(self.trials) < self.population:
            number = len(self.trials)
            config, curve = self.draw(f"{number:05d}")
            trial = RayTrial(number, config, curve)
            self.scheduler.on_trial_add(self, trial)
            self.trials.append(trial)
            self.live.append(trial)
            waiting += 1

    def start(self, trial):
        manager = trial.run_metadata.checkpoint_manager
        cloned = manager._latest_checkpoint_result
        if cloned is not None:
            trial.epoch = cloned.checkpoint.epoch
            trial.curve = self.clock.table.find(trial.config)
            manager._latest_checkpoint_result = None
        trial.status = RUNNING
        self.running += 1
        if self.clock.is_done(trial):  # cloned from a trial that had ended
            self.stop_trial(trial)
        else:
            self.clock.step(trial)


def ray_space(table, *, for_pbt=False):
    from ray import tune

    space = {}
    for name, domain in table.domains.items():
        if domain["kind"] == "choice":
            space[name] = domain["values"] if for_pbt else tune.choice(domain["values"])
        else:
            space[name] = getattr(tune, domain["kind"])(domain["lower"], domain["upper"])
    return space


def ray_schedulers(table):
    from ray.tune import schedulers as given

    goal = {"metric": METRIC, "mode": "max"}
    time = {"time_attr": "training_iteration"}
    longest = {"max_t": len(table.seconds[0])}
    return {
        "ASHA": lambda: given.AsyncHyperBandScheduler(**time, **goal, **longest),
        "HyperBand": lambda: given.HyperBandScheduler(**time, **goal, **longest),
        "median": lambda: given.MedianStoppingRule(**time, **goal, grace_period=5),
        "TPE": given.FIFOScheduler,
        "PBT": lambda: given.PopulationBasedTraining(
            **time, **goal, perturbation_interval=5, log_config=False,
            hyperparam_mutations=ray_space(table, for_pbt=True),
        ),
    }  # fmt: skip


def ray_trace(table, method, case):
    random.seed(case["seed"])
    np.random.seed(case["seed"])  # noqa: NPY002 - it is what Ray draws from
    clock = Clock(table, case["limit"])
    drawn = iter(case["drawn"])
    searcher = None
    if method == "TPE":
        from ray.tune.search.optuna import OptunaSearch

        searcher = OptunaSearch(ray_space(table), metric=METRIC, mode="max", seed=case["seed"])

    def draw(trial_id):
        if searcher is not None:
            config = searcher.suggest(trial_id)
            return config, table.find(config)
        curve = next(drawn)
        return dict(case["configs"][curve]), curve

    while clock.now < clock.limit:
        scheduler = ray_schedulers(table)[method]()
        controller = RayController(
            clock,
            scheduler,
            searcher=searcher,
            draw=draw,
            workers=case["workers"],
            population=case["population"] or math.inf,
        )
        began = clock.now
        controller.run()
        if clock.now == began:
            break
    return clock.trace


# -- Optuna ---------------------------------------------------------------------------------------


def optuna_trace(table, method, case):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    longest = len(table.seconds[0])
    pruners = {
        "ASHA": lambda: optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=4, min_early_stopping_rate=0
        ),
        "HyperBand": lambda: optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=longest, reduction_factor=3
        ),
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=5),
        "TPE": optuna.pruners.NopPruner,
    }
    kinds = {
        "uniform": lambda d: optuna.distributions.FloatDistribution(d["lower"], d["upper"]),
        "loguniform": lambda d: optuna.distributions.FloatDistribution(
            d["lower"], d["upper"], log=True
        ),
        "randint": lambda d: optuna.distributions.IntDistribution(d["lower"], d["upper"] - 1),
        "lograndint": lambda d: optuna.distributions.IntDistribution(
            d["lower"], d["upper"] - 1, log=True
        ),
        "choice": lambda d: optuna.distributions.CategoricalDistribution(d["values"]),
    }
    space = {name: kinds[domain["kind"]](domain) for name, domain in table.domains.items()}
    sampler = (
        optuna.samplers.TPESampler(seed=case["seed"])
        if method == "TPE"
        else optuna.samplers.RandomSampler(seed=case["seed"])
    )
    # Hyperband derives the bracket of a trial from the name of its study.
    study = optuna.create_study(
        study_name=f"{method} {case['seed']}",
        direction="maximize",
        sampler=sampler,
        pruner=pruners[method](),
    )
    clock, drawn = Clock(table, case["limit"]), iter(case["drawn"])

    def begin():
        trial = study.ask(space if method == "TPE" else None)
        curve = table.find(trial.params) if method == "TPE" else next(drawn)
        clock.step(types.SimpleNamespace(trial=trial, curve=curve, epoch=0))

    for _ in range(case["workers"]):
        begin()
    while (running := clock.next()) is not None:
        value = clock.value(running)
        running.trial.report(value, running.epoch)
        if clock.is_done(running):
            study.tell(running.trial, value)
        elif running.trial.should_prune():
            study.tell(running.trial, state=optuna.trial.TrialState.PRUNED)
        else:
            clock.step(running)
            continue
        begin()
    return clock.trace


def main():
    logging.disable(logging.WARNING)
    told = json.load(sys.stdin)
    table = Table(told["table"])
    traces = {"Ray": ray_trace, "Optuna": optuna_trace}
    configs = told["table"]["configs"]
    for case in told["cases"]:
        trace = traces[case["system"]](table, case["method"], case | {"configs": configs})
        key = {name: case[name] for name in ("system", "method", "workers", "seed")}
        print(json.dumps(key | {"trace": trace}), flush=True)


if __name__ == "__main__":
    main()
