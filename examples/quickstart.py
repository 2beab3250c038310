import asyncio

import asynctune as tune


def train(config):
    from sklearn import datasets, linear_model  # here, so that only the workers import it

    x, y = datasets.load_digits(return_X_y=True)
    model = linear_model.SGDClassifier(alpha=config["alpha"], random_state=0)
    for _ in range(5):
        model.partial_fit(x[:1200], y[:1200], classes=range(10))
        tune.report(accuracy=model.score(x[1200:], y[1200:]))


space = {"alpha": tune.loguniform(1e-4, 1e4)}
analysis = asyncio.run(tune.run(train, config=space, metric="accuracy", mode="max", num_samples=8))
print("best configuration:", analysis.best_config)
