"""Tuning as a web service: one pool of workers, many runs, and no request that waits for another.

POST /runs {"samples": 8, "epochs": 10} starts a run; GET /runs lists all runs; GET /runs/ID returns the
status of one; GET /runs/ID/results streams its results as server-sent events; DELETE /runs/ID cancels it.
"""

import argparse
import asyncio
import contextlib

import uvicorn
from sklearn import datasets, neural_network
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import asynctune as tune
from asynctune.result import strict_json

SPACE = {"learning_rate_init": tune.loguniform(1e-4, 1e-1), "alpha": tune.loguniform(1e-6, 1e-1)}
DEFAULTS, LIMITS = {"samples": 8, "epochs": 10}, {"samples": 100, "epochs": 1000}


def train(config):
    x, y = datasets.load_digits(return_X_y=True)
    model = neural_network.MLPClassifier((32,), random_state=0, **config)
    while True:  # until the stop criterion of the run is met
        model.partial_fit(x[:1200] / 16, y[:1200], classes=range(10))
        tune.report(accuracy=model.score(x[1200:] / 16, y[1200:]), loss=model.loss_)


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.runs = {}
    # New workers start with the preloaded modules already imported.
    pool = tune.executors.ProcessExecutor(2, preload=["sklearn.datasets", "sklearn.neural_network"])
    async with pool as app.state.pool:
        yield
        await close_runs()


async def close_runs():
    await asyncio.gather(*(experiment.aclose() for experiment in app.state.runs.values()))


async def start(request):
    try:
        wanted = DEFAULTS | await request.json()
    except (ValueError, TypeError):
        raise HTTPException(422, f"the body must be a JSON object such as {DEFAULTS}") from None
    for name, value in wanted.items():
        if type(value) is not int or not 1 <= value <= LIMITS.get(name, 0):
            raise HTTPException(
                422, f"the body must hold ints from 1 to {LIMITS}, got {name}={value!r}"
            )
    stop, pool = {"training_iteration": wanted["epochs"]}, app.state.pool
    options = {"config": SPACE, "metric": "accuracy", "mode": "max", "stop": stop, "verbose": 0}
    experiment = await tune.start(train, num_samples=wanted["samples"], executor=pool, **options)
    app.state.runs[experiment.name] = experiment
    headers = {"Location": app.url_path_for("show", id=experiment.name)}
    return JSONResponse({"id": experiment.name}, 202, headers)


async def index(_request):
    return JSONResponse([await summary(experiment) for experiment in [*app.state.runs.values()]])


async def show(request):
    return JSONResponse(await summary(found(request)))


async def results(request):
    experiment = found(request)

    async def stream():  # a client that disconnects ends this generator, not the run
        async for row in experiment:
            yield f"data: {strict_json(row)}\n\n"
        yield f"event: end\ndata: {strict_json(await summary(experiment, wait=True))}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


async def cancel(request):
    experiment = app.state.runs.pop(found(request).name)
    await experiment.aclose()
    return Response(status_code=204)


def found(request):
    experiment = app.state.runs.get(request.path_params["id"])
    if experiment is None:
        raise HTTPException(404, f"no run has the id {request.path_params['id']!r}")
    return experiment


async def summary(experiment, *, wait=False):
    status, error, analysis = "running", None, experiment.analysis()
    if wait or experiment.is_over:
        try:
            status, analysis = "ended", await experiment
        except Exception as exc:
            status, error = "failed", str(exc)
    best = await asyncio.to_thread(analysis.get_best_config)  # reads results from disk
    trials = analysis.stats()["by_status"]
    return {"id": experiment.name, "status": status, "trials": trials, "best": best, "error": error}


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/runs", start, methods=["POST"]),
        Route("/runs", index),
        Route("/runs/{id}", show),
        Route("/runs/{id}", cancel, methods=["DELETE"]),
        Route("/runs/{id}/results", results),
    ],
)


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        await (
            close_runs()
        )  # first, since shutdown waits for open streams, which end with their runs
        await super().shutdown(sockets)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Tune over HTTP.")
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 for a free one"
    )
    with contextlib.suppress(KeyboardInterrupt):
        Server(uvicorn.Config(app, port=parser.parse_args().port)).run()
