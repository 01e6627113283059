"""Fixtures of the tests of one part against real processes and servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.console import Console
from tests.support.gated import gated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import Project
    from tests.support.gated import Gated


@pytest.fixture(scope="module")
def module_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    """A server and a worker that the tests of a module share."""
    with gated(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture
def shop(module_shop: Gated) -> Iterator[Gated]:
    """The module's server and worker, with an app for this test."""
    module_shop.connect()
    yield module_shop
    module_shop.disconnect()


@pytest.fixture
def console(proj: Project) -> Iterator[Console]:
    """A shell of the project that the module's own fixture ``proj`` has written."""
    with Console(proj) as console:
        yield console
