"""The images, built once for the session (from the cache where nothing changed) and unpacked."""

import contextlib

import pytest
from support.imagetree import ImageTree

from memorypressure_tools.guest import packages
from memorypressure_tools.images.build import Request, build, missing
from memorypressure_tools.toolcache import ToolMissingError


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, ImageTree]:
    """Both images by their names."""
    with contextlib.suppress(ToolMissingError):  # what could not be installed is in `missing`, with the command
        packages.ensure(packages.IMAGES)
    lacking = missing()
    if lacking:
        raise ToolMissingError("; ".join(lacking))
    output = tmp_path_factory.mktemp("images")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # the progress of a first build has to be seen
        built = build(Request(), output)
    trees = {}
    for image in built:
        directory = output / image.name
        directory.mkdir()
        trees[image.name] = ImageTree(image.path, directory)
    return trees


@pytest.fixture
def agent(images: dict[str, ImageTree]) -> ImageTree:
    """The agent's image."""
    return images["agent"]


@pytest.fixture
def operator(images: dict[str, ImageTree]) -> ImageTree:
    """The operator's image."""
    return images["operator"]
