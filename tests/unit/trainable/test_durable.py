"""DurableTrainable: what it saved is restored anywhere, and what it could not store is nowhere."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest

from asynctune.errors import CheckpointCorrupt, ConfigError, Fenced, StorageError
from asynctune.loggers import NoopLogger
from asynctune.storage import LocalStorage, Storage
from asynctune.storage.checkpoints.commits import Commits, RemoteDir
from asynctune.storage.checkpoints.records import Writer
from asynctune.trainable.context import SyncHookCaller, TrainableContext, current_context
from asynctune.trainable.durable import DurableTrainable
from scripted_storage import ScriptedStorage

LOGS = {"params.json", "result.json", "progress.csv"}
# layout -> the file that is written, and what _save returns, relative to the directory it was given
LAYOUTS = {
    "dict": (None, None),
    "file": ("model.bin", "model.bin"),
    "directory": ("sub/w", ""),
    "subdirectory": ("model/w", "model"),
    "prefix": ("pre.index", "pre"),
    "a file that is called like a checkpoint": ("checkpoint_best", "checkpoint_best"),
    "a directory that is called like a checkpoint": ("checkpoint_7/w", "checkpoint_7"),
}


class Counts(DurableTrainable):
    """Counts; saves its count in the layout that its config names."""

    def _setup(self, config):
        self.seen_in_setup = self.remote_checkpoint_dir, self.storage_client
        self.file, self.returned = LAYOUTS[config.get("layout", "dict")]
        self.x = 0

    def _train(self):
        self.x += 1
        return {"x": self.x}

    def _save(self, tmp_checkpoint_dir):
        if self.file is None:
            return {"x": self.x}
        path = Path(tmp_checkpoint_dir, self.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{self.x}")
        return os.path.join(tmp_checkpoint_dir, self.returned)

    def _restore(self, checkpoint):
        if self.file is None:
            self.x = checkpoint["x"]
        else:
            self.x = int(Path(checkpoint + self.file.removeprefix(self.returned)).read_text())


class Scripted(Counts):
    """Keeps its checkpoints in the storage that its config names."""

    def _create_storage_client(self):
        return self.config_storage

    def __init__(self, storage, *args, **kwargs):
        self.config_storage = storage
        super().__init__("memory://bucket", *args, **kwargs)


@pytest.fixture
def remote(tmp_path):
    return str(tmp_path / "remote")


@pytest.fixture
def scripted():
    return ScriptedStorage()


def trained(trainable, times=1):
    for _ in range(times):
        trainable.train()
    return trainable


def local(trainable):
    """The names in the logdir that loggers did not write."""
    return sorted(set(os.listdir(trainable.logdir)) - LOGS)


def names(where):
    storage = LocalStorage(where) if isinstance(where, str) else where
    return [commit.name for commit in Commits(storage).newest_first()]


def lose_disk(trainable):
    shutil.rmtree(trainable.logdir)


# -- there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_saved_is_restored_by_another_instance_with_an_empty_disk(remote, layout):
    a = trained(Counts(remote, {"layout": layout}), 3)
    path = a.save()
    lose_disk(a)
    b = Counts(remote, {"layout": layout})
    assert b.logdir != a.logdir
    b.restore(path)
    assert (b.x, b.iteration) == (3, 3)
    assert local(b) == ["checkpoint_3"]
    assert b.train()["training_iteration"] == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_saved_is_restored_by_the_instance_itself(remote, layout):
    a = trained(Counts(remote, {"layout": layout}), 2)
    path = a.save()
    a.train()
    a.restore(path)
    assert (a.x, a.iteration) == (2, 2)
    shutil.rmtree(Path(a.logdir, "checkpoint_2"))
    a.train()
    a.restore(path)
    assert (a.x, a.iteration) == (2, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_deleted_is_gone_everywhere(remote, layout):
    a = trained(Counts(remote, {"layout": layout}))
    path = a.save()
    a.delete_checkpoint(path)
    assert local(a) == []
    assert names(remote) == []
    assert not list(Path(remote).rglob("checkpoint*"))
    a.delete_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        Counts(remote, {"layout": layout}).restore(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_deleted_there_also_when_the_local_copy_is_gone(remote, layout):
    a = trained(Counts(remote, {"layout": layout}))
    path = a.save()
    lose_disk(a)
    Counts(remote).delete_checkpoint(path)
    assert names(remote) == []
    assert not list(Path(remote).rglob("checkpoint*"))


def test_a_path_object_and_the_directory_of_the_checkpoint_are_restored_too(remote):
    a = trained(Counts(remote, {"layout": "file"}))
    path = a.save()
    lose_disk(a)
    for where in (Path(path), Path(path).parent, f"{Path(path).parent}/"):
        b = Counts(remote, {"layout": "file"})
        b.restore(where)
        assert b.x == 1


def test_save_returns_when_it_is_committed_and_all_saves_can_be_listed(remote):
    a = Counts(remote)
    for number in (1, 2):
        a.train()
        path = a.save()
        assert names(remote)[0] == f"checkpoint_{number}"
        assert path == os.path.join(a.logdir, f"checkpoint_{number}", "checkpoint")
    b = Counts(remote)
    found = b.commits()
    assert [os.path.basename(path) for path in found] == ["checkpoint_2", "checkpoint_1"]
    for path, x in zip(found, (2, 1), strict=True):
        b.restore(path)
        assert b.x == x


def test_saving_twice_at_one_iteration_makes_two_checkpoints(remote):
    a = trained(Counts(remote))
    first = a.save()
    a.x = 70
    second = a.save()
    assert names(remote) == ["checkpoint_1.1", "checkpoint_1"]
    b = Counts(remote)
    for path, x in ((first, 1), (second, 70)):
        b.restore(path)
        assert b.x == x


def test_an_instance_that_saves_anew_replaces_nothing_of_the_one_before(remote):
    a = trained(Counts(remote))
    first = a.save()
    b = trained(Counts(remote))
    b.x = 70
    second = b.save()
    assert os.path.basename(os.path.dirname(second)) == "checkpoint_1.1"
    assert local(b) == ["checkpoint_1.1"]
    for path, x in ((first, 1), (second, 70)):
        shutil.rmtree(os.path.dirname(path))
        c = Counts(remote)
        c.restore(path)
        assert c.x == x


def test_an_instance_is_fenced_when_another_has_begun_to_save(remote):
    a, b = trained(Counts(remote)), trained(Counts(remote), 2)
    a.save()
    b.save()
    a.train()
    a.train()
    with pytest.raises(Fenced):
        a.save()
    assert local(a) == ["checkpoint_1"]
    assert names(remote) == ["checkpoint_2", "checkpoint_1"]
    b.train()
    b.save()


def test_restoring_and_deleting_begin_nothing(remote):
    a, b = trained(Counts(remote)), Counts(remote)
    first = a.save()
    b.restore(first)
    a.train()
    second = a.save()
    b.delete_checkpoint(second)
    a.train()
    a.save()
    assert names(remote) == ["checkpoint_3", "checkpoint_1"]


# -- what the hooks have ------------------------------------------------------------------------


def test_the_place_is_known_in_setup(remote):
    a = Counts(remote)
    assert a.remote_checkpoint_dir == remote
    assert a.seen_in_setup == (remote, a.storage_client)
    assert isinstance(a.storage_client, Storage)
    assert a.storage_client.url == Path(remote).as_uri()


def test_an_own_storage_client_is_used(scripted):
    a = trained(Scripted(scripted))
    assert a.storage_client is scripted
    assert a.seen_in_setup == ("memory://bucket", scripted)
    a.save()
    assert names(scripted) == ["checkpoint_1"]


@pytest.mark.parametrize("as_path", [str, Path])
def test_every_form_of_the_constructor_works(remote, tmp_path, as_path):
    config = {"layout": "file"}
    logdir = tmp_path / "logs"
    logdir.mkdir()

    def creator(config):
        return NoopLogger(config, str(logdir))

    for a in (
        Counts(as_path(remote)),
        Counts(as_path(remote), config),
        Counts(as_path(remote), config, creator),
        Counts(as_path(remote), config=config, logger_creator=creator),
        Counts(remote_checkpoint_dir=as_path(remote), config=config),
        Counts(config=config, remote_checkpoint_dir=as_path(remote), logger_creator=creator),
        Counts(as_path(remote), config, storage_options={}),
        Counts(remote_checkpoint_dir=Path(remote).as_uri(), storage_options=None),
    ):
        trained(a).save()
        assert Path(remote, "commits").is_dir()
        shutil.rmtree(remote)
    assert {"checkpoint_1", "checkpoint_1.1", "checkpoint_1.2"} <= set(os.listdir(logdir))


@pytest.mark.parametrize(
    ("where", "options", "message"),
    [
        (None, None, "remote_checkpoint_dir must be a URL .* or a directory, got None$"),
        ("", None, "remote_checkpoint_dir must be a URL .* or a directory, got ''$"),
        (
            {"layout": "dict"},
            None,
            "remote_checkpoint_dir must be a URL .*, got {'layout': 'dict'}$",
        ),
        ("ftp://x/y", None, "URL of a storage must begin with .*, got 'ftp://x/y'"),
        ("somewhere", {"region": "x"}, "storage_options has 'region'"),
    ],
)
def test_a_place_that_is_none_is_refused(where, options, message):
    with pytest.raises(ConfigError, match=message):
        Counts(where, storage_options=options)


def test_async_hooks_work(remote):
    class Asynchronous(DurableTrainable):
        async def _setup(self, config):
            self.x = 0

        async def _train(self):
            self.x += 1
            return {"x": self.x}

        async def _save(self, tmp_checkpoint_dir):
            return {"x": self.x}

        async def _restore(self, checkpoint):
            self.x = checkpoint["x"]

    a, b = trained(Asynchronous(remote), 2), Asynchronous(remote)
    path = a.save()
    lose_disk(a)
    b.restore(path)
    assert b.x == 2
    b.delete_checkpoint(path)
    assert names(remote) == []
    for trainable in (a, b):
        trainable.stop()


def test_the_later_spellings_work(remote):
    class Later(DurableTrainable):
        def setup(self, config):
            self.x, self.place = 0, self.remote_checkpoint_dir

        def step(self):
            self.x += 1
            return {"x": self.x}

        def save_checkpoint(self, directory):
            Path(directory, "x").write_text(f"{self.x}")
            return directory

        def load_checkpoint(self, checkpoint):
            self.x = int(Path(checkpoint, "x").read_text())

        def cleanup(self):
            self.x = None

    a, b = trained(Later(remote), 2), Later(remote)
    assert a.place == remote
    path = a.save()
    lose_disk(a)
    b.restore(path)
    assert (b.x, b.iteration) == (2, 2)
    b.stop()
    assert b.x is None


# -- objects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_save_to_object_uploads_nothing(remote, layout):
    a, b = trained(Counts(remote, {"layout": layout}), 2), Counts(remote, {"layout": layout})
    b.restore_from_object(a.save_to_object())
    assert (b.x, b.iteration) == (2, 2)
    assert not Path(remote).exists()
    assert local(a) == local(b) == []


def test_an_object_that_is_damaged_is_not_replaced_by_a_checkpoint_of_its_name(remote):
    a = trained(Counts(remote, {"layout": "file"}))
    a.save()
    a.x = 7
    obj = a.save_to_object()
    assert obj.endswith(b"7")
    b = Counts(remote, {"layout": "file"})
    with pytest.raises(CheckpointCorrupt):
        b.restore_from_object(obj[:-1] + b"8")
    assert b.x == 0


# -- where the local copy may be ----------------------------------------------------------------


def test_the_local_copy_may_lie_anywhere_in_the_logdir(remote):
    a = trained(Counts(remote))
    path = a.save(os.path.join(a.logdir, "inner", "most"))
    assert path.startswith(os.path.join(a.logdir, "inner", "most", "checkpoint_1"))
    lose_disk(a)
    b = Counts(remote)
    b.restore(path)
    assert b.x == 1


@pytest.mark.parametrize("inside", ["../elsewhere", "/"])
def test_a_local_copy_outside_of_the_logdir_is_refused_before_anything_is_saved(remote, inside):
    a = trained(Counts(remote))
    with pytest.raises(ValueError, match=r"^checkpoint_dir must be inside the logdir '.*', got '"):
        a.save(os.path.join(a.logdir, inside))
    assert not Path(remote).exists()
    assert not os.path.exists(os.path.join(a.logdir, "../elsewhere"))


# -- what fails ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", ["list checkpoint_1/", "list commits/", "create commits/00000001", "upload", "create"]
)
def test_a_save_that_could_not_be_stored_raises_and_is_neither_here_nor_there(scripted, call):
    a = trained(Scripted(scripted))
    scripted.script.fail(call)
    with pytest.raises(StorageError, match=call):
        a.save()
    assert local(a) == []
    assert names(scripted) == []
    a.train()
    a.save()
    assert local(a) == names(scripted) == ["checkpoint_2"]


@pytest.mark.parametrize("call", ["upload", "create"])
def test_it_is_not_here_either_when_its_name_had_to_be_another(scripted, call):
    trained(Scripted(scripted)).save()
    a = trained(Scripted(scripted))
    scripted.script.fail(call)
    with pytest.raises(StorageError):
        a.save()
    assert local(a) == []
    assert names(scripted) == ["checkpoint_1"]


def test_a_failed_save_takes_nothing_from_the_ones_before(scripted):
    a = trained(Scripted(scripted))
    path = a.save()
    scripted.script.fail("upload")
    with pytest.raises(StorageError):
        a.save()
    assert local(a) == names(scripted) == ["checkpoint_1"]
    a.x = 70
    a.restore(path)
    assert a.x == 1


def test_a_restore_that_fails_leaves_the_trainable_as_it_was(scripted):
    a = trained(Scripted(scripted))
    path = a.save()
    lose_disk(a)
    b = trained(Scripted(scripted), 5)
    scripted.script.fail("download")
    with pytest.raises(StorageError):
        b.restore(path)
    assert (b.x, b.iteration) == (5, 5)
    assert local(b) == []


@pytest.mark.parametrize("layout", ["dict", "file"])
def test_a_local_copy_that_is_damaged_is_brought_again(remote, layout):
    a = trained(Counts(remote, {"layout": layout}))
    path = a.save()
    Path(path).write_bytes(b"damaged")
    a.train()
    a.restore(path)
    assert (a.x, a.iteration) == (1, 1)
    assert local(a) == ["checkpoint_1"]


def test_a_local_copy_whose_manifest_is_damaged_is_brought_again(remote):
    a = trained(Counts(remote))
    path = a.save()
    Path(a.logdir, "checkpoint_1", ".manifest.json").write_bytes(b"{")
    a.restore(path)
    assert a.x == 1


def test_what_comes_damaged_once_is_read_once_more(scripted):
    a = trained(Scripted(scripted))
    path = a.save()
    lose_disk(a)
    served = []

    def serve(key, data):
        if key.startswith("checkpoint_"):
            served.append(key)
            return data if len(served) > 1 else data[::-1]
        return data

    scripted.script.serve = serve
    b = Scripted(scripted)
    b.restore(path)
    assert b.x == 1
    assert len(served) == 2


def test_what_comes_damaged_twice_is_never_unpickled(scripted, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    a = trained(Scripted(scripted))
    path = a.save()
    lose_disk(a)
    trap = pickle.dumps(Trap())
    scripted.script.serve = lambda key, data: (
        trap[: len(data)].ljust(len(data), b".") if key.startswith("checkpoint_") else data
    )
    b = Scripted(scripted)
    with pytest.raises(CheckpointCorrupt):
        b.restore(path)
    assert local(b) == []
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_copy_that_is_not_there_either_is_told_of(remote):
    a = trained(Counts(remote))
    path = a.save()
    Path(path).write_bytes(b"damaged")
    shutil.rmtree(remote)
    with pytest.raises(CheckpointCorrupt) as raised:
        a.restore(path)
    assert any("'checkpoint_1' is not in" in note for note in raised.value.__notes__)


def test_what_was_never_saved_is_not_found(remote, tmp_path):
    a = Counts(remote)
    for path in (f"{a.logdir}checkpoint_9", str(tmp_path / "nowhere"), "checkpoint_1"):
        with pytest.raises(FileNotFoundError):
            a.restore(path)


def test_deleting_what_was_never_saved_is_no_error(remote, tmp_path):
    a = Counts(remote)
    for path in (f"{a.logdir}checkpoint_9", str(tmp_path / "nowhere")):
        a.delete_checkpoint(path)


def test_a_delete_that_fails_there_leaves_the_local_copy(scripted):
    a = trained(Scripted(scripted))
    path = a.save()
    scripted.script.fail("delete commits/")
    with pytest.raises(StorageError):
        a.delete_checkpoint(path)
    assert local(a) == ["checkpoint_1"]
    a.delete_checkpoint(path)
    assert local(a) == names(scripted) == []


def test_another_trials_checkpoint_is_never_mistaken_for_one_of_its_own(tmp_path):
    """A donor's checkpoint that is damaged here may be called like one that this trial has saved."""
    place = LocalStorage(tmp_path / "remote")

    def made(trial_id):
        logdir = tmp_path / "here" / trial_id
        logdir.mkdir(parents=True)
        remote = RemoteDir(place.below(trial_id), Writer(0, 0, "same"))
        token = current_context.set(
            TrainableContext(
                logdir=str(logdir), hooks=SyncHookCaller(), trial_id=trial_id, remote=remote
            )
        )
        try:
            return Counts(place.below(trial_id).url)
        finally:
            current_context.reset(token)

    own, donor = made("own"), made("donor")
    own.train()
    own.save()
    donor.train()
    path = Path(donor.save())
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if file.is_file() and not file.name.startswith("."):
            file.write_bytes(b"damaged")
    with pytest.raises(CheckpointCorrupt):
        own.restore(str(path))
