"""The server against its own OpenAPI schema, tested by schemathesis."""

import os
import subprocess
import sys
from pathlib import Path

from server import running_server, small_pipeline

KEY = "a-key-of-more-than-sixteen"
CASES = os.environ.get("GENREC_CASES", "20")  # per route; `GENREC_CASES=300 pytest tests/serve/test_openapi.py`


def test_every_response_matches_the_openapi_schema(tmp_path: Path) -> None:
    """Clients are generated from the schema: an undocumented status or field breaks them."""
    with running_server(small_pipeline(), tmp_path, keys=[KEY]) as address:
        options = {
            "--header": f"Authorization: Bearer {KEY}",
            "--checks": "all",
            "--exclude-checks": "positive_data_acceptance",  # replaced by schema_check
            "--phases": "examples,coverage,fuzzing,stateful",
            "--max-examples": CASES,
            "--request-timeout": "30",
            "--suppress-health-check": "all",
        }
        given = [word for pair in options.items() for word in pair]
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", *given]
        command += ["--generation-deterministic", "--continue-on-failure"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "schema_check",
                "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
            },
            check=False,
        )
    assert not done.returncode, done.stdout[-20_000:] + done.stderr[-2_000:]
