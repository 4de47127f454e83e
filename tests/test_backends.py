"""Every backend keeps the contract; see contracts.py."""

import ast
from pathlib import Path

import numpy as np
import pytest
from contracts import BackendContract, defines, has_base, subjects

import genrec
from genrec.backends.base import Backend
from genrec.errors import EngineError
from genrec.testing import TableBackend

HOME = Path(genrec.__file__).parent


class TestTableBackend(BackendContract):
    subject = "TableBackend"

    @pytest.fixture
    def backend(self) -> Backend:
        return TableBackend(97, seed=5)

    def test_it_fails_when_it_is_told_to(self) -> None:
        """The ladder is tested with it."""
        with pytest.raises(EngineError, match="told to fail"):
            TableBackend(10, fails=True).open([np.array([1])])


@pytest.mark.model
class TestTransformersBackend(BackendContract):
    subject = "TransformersBackend"
    atol = 2e-4

    @pytest.fixture
    def backend(self, smollm2_float32: Backend) -> Backend:
        return smollm2_float32


def test_every_backend_has_its_contract() -> None:
    """A backend that nobody held to the law will break it in production."""
    backends = {
        node.name
        for path in (*(HOME / "backends").glob("*.py"), HOME / "testing.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not has_base(node, "Protocol") and defines(node, "open")
    }
    assert backends == subjects("BackendContract")
