"""asynctune in a notebook: the example and others, executed by a real kernel."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import nbclient
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import asynctune as tune

pytestmark = pytest.mark.timeout(120)  # a kernel, and scikit-learn loaded once a worker
EXAMPLE = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


@pytest.fixture
def client_of(tmp_path, monkeypatch):
    """Make the client of a notebook; all that the kernel writes of its own is in this test's folder."""
    for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))

    def make(*cells, **options):
        notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
        return nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3", **options)

    return make


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(cell, kind="text/plain"):
    (result,) = [output for output in cell.outputs if output.output_type == "execute_result"]
    return result.data[kind]


def raised(cell):
    """Give the type of the exception that a cell raised, and its traceback without colours."""
    (error,) = [output for output in cell.outputs if output.output_type == "error"]
    return error.ename, re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))


def stored(directory, name):
    (path,) = [journal.parent for journal in directory.glob(f"{name}_*/journal")]
    return tune.Analysis(path)


@pytest.mark.asyncio
@pytest.mark.slow
async def test_the_example_tunes_functions_and_classes_of_its_own_in_runs_that_span_cells(
    client_of, results_dir
):
    client = client_of()
    client.nb = nbformat.read(EXAMPLE, as_version=4)
    cells = {cell.id: cell for cell in (await client.async_execute()).cells}

    function = await asyncio.to_thread(stored, results_dir, "train")
    assert [len(trial.results) for trial in function.trials] == [5] * 6
    assert printed(cells["function"]).count("TERMINATED") == 6
    assert ast.literal_eval(shown(cells["function"])) == function.best_config

    network = await asyncio.to_thread(stored, results_dir, "Network")
    assert [len(trial.results) for trial in network.trials] == [5] * 10
    assert ast.literal_eval(shown(cells["start"])) == Path(network.path).name
    epochs = [int(epoch) for epoch in re.findall(r"epoch (\d)", printed(cells["look"]))]
    assert epochs[0] == 1
    assert epochs.index(5) == len(epochs) - 1
    assert "lr" in ast.literal_eval(shown(cells["snapshot"]))
    best = max(network.trials, key=lambda t: max(row["accuracy"] for row in t.results))
    first_line = shown(cells["wait"]).splitlines()[1].split()
    assert float(first_line[1]) == pytest.approx(best.config["lr"], abs=1e-5)
    assert "<table" in shown(cells["wait"], "text/html")
    accuracy = re.fullmatch(r"'epoch 6: ([\d.]+)%'", shown(cells["continue"]))[1]
    assert float(accuracy) > 60


def test_the_example_is_stored_without_outputs_and_without_traces_of_a_machine():
    notebook = nbformat.read(EXAMPLE, as_version=4)
    assert set(notebook.metadata) == {"kernelspec"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.mark.asyncio
async def test_the_error_of_a_notebooks_function_shows_its_lines(client_of, results_dir):
    client = client_of(
        "import asynctune as tune",
        "def inverse(x):\n    return 1 / x  # is 1 over x",
        "def train(config):\n    tune.report(loss=inverse(config['x']))  # reports the inverse",
        "await tune.run(train, config={'x': 0}, verbose=0)",
        allow_errors=True,
    )
    *_, last = (await client.async_execute()).cells
    kind, traceback = raised(last)
    assert kind == "TrialError"
    assert "ZeroDivisionError" in traceback
    assert "return 1 / x  # is 1 over x" in traceback
    assert "tune.report(loss=inverse(config['x']))  # reports the inverse" in traceback
    (trial,) = (await asyncio.to_thread(stored, results_dir, "train")).trials
    assert "return 1 / x  # is 1 over x" in trial.error.traceback


@pytest.mark.asyncio
async def test_a_cell_that_is_interrupted_leaves_no_worker_and_the_next_cell_can_tune(client_of):
    lines = asyncio.Queue()
    # Workers call here, and the line is dead when they are.
    async with await asyncio.start_server(
        lambda *line: lines.put_nowait(line), "127.0.0.1"
    ) as server:
        port = server.sockets[0].getsockname()[1]
        client = client_of(
            "import os, socket, asynctune as tune",
            "def train(config):\n"
            f"    with socket.create_connection(('127.0.0.1', {port})) as line:\n"
            "        line.recv(1)",
            "await tune.run(train, num_samples=4, max_concurrent_trials=2, grace_s=0.1, verbose=0)",
            "os.waitpid(-1, os.WNOHANG)",
            "def quick(config):\n    tune.report(loss=config['x'])",
            "analysis = await tune.run(quick, config={'x': 3}, verbose=0)",
            "analysis.trials[0].last_result['loss']",
            allow_errors=True,
        )
        async with client.async_setup_kernel():

            async def execute(*numbers):
                for number in numbers:
                    await client.async_execute_cell(client.nb.cells[number], number)
                return client.nb.cells[numbers[-1]]

            await execute(0, 1)
            tuning = asyncio.create_task(execute(2))
            workers = [await lines.get(), await lines.get()]
            await client.km.interrupt_kernel()
            kind, _ = raised(await tuning)
            assert kind in ("CancelledError", "KeyboardInterrupt")
            assert raised(await execute(3))[0] == "ChildProcessError"  # the kernel has no children
            for reader, writer in workers:
                assert await reader.read() == b""
                writer.close()
            assert lines.empty()
            assert shown(await execute(4, 5, 6)) == "3"
