"""Contract suites for plug-ins: test classes that an executor, a scheduler and so on have to pass.

:mod:`~asynctune.testing.executors`, :mod:`~asynctune.testing.loggers`,
:mod:`~asynctune.testing.schedulers`, :mod:`~asynctune.testing.searchers` and
:mod:`~asynctune.testing.storages` each have a class to subclass in a test file of your own::

    from asynctune.testing.storages import StorageContract

    class TestMyStorage(StorageContract):
        def make_storage(self, directory):
            return MyStorage(directory)

These modules import pytest, which is no dependency of asynctune; the asynchronous ones also need
pytest-asyncio. Put ``pytest.register_assert_rewrite("asynctune.testing")`` into ``conftest.py``, so that
failed assertions show their values.

:mod:`~asynctune.testing.scripts` needs no pytest: it plays scripted runs for a scheduler and checks its
answers. :mod:`~asynctune.testing.trainables` has the trainables of the executors' suite.
"""
