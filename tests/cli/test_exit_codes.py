"""The exit code tells how a command ended."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import NO_MODELS, OURS, run

from genrec.cli import loading


class TestExitCodes:
    """Programs that call genrec tell failures apart by number."""

    def test_an_index_for_another_tokenizer_is_4(self, files: Path, smollm2: Path) -> None:
        other = files / "other"
        shutil.copytree(smollm2, other, ignore=shutil.ignore_patterns("*.safetensors"))
        document = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
        document["model"]["merges"].pop()
        (other / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
        assert run("index", "build", "saved", "--items", "items.csv", "--model", other).exit_code == 0
        result = run("recommend", "--words", "tea", "--index", "saved")
        assert result.exit_code == 4
        assert "'saved'" in result.err
        assert "build it again" in result.err

    def test_a_named_model_that_is_not_there_is_5(self, files: Path) -> None:
        result = run("recommend", "--model", "/nowhere/model", *OURS)
        assert result.exit_code == 5
        assert "'/nowhere/model'" in result.err

    def test_a_demo_that_may_not_fetch_is_5(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GENREC_CACHE", str(tmp_path))
        result = run("demo", "--offline")
        assert result.exit_code == 5
        assert "genrec model get SmolLM2-135M-Instruct" in result.err

    def test_a_doctor_without_a_model_is_5_and_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GENREC_CACHE", str(tmp_path))
        result = run("doctor", "--json")
        assert result.exit_code == 5
        remedies = [check["remedy"] for check in result.json["checks"] if check["state"] == "broken"]
        assert "genrec model get SmolLM2-135M-Instruct" in remedies

    def test_a_missing_model_that_nobody_named_is_said_and_done_without(
        self, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It always answers: the ladder goes on without the model, and the answer says so."""
        monkeypatch.setenv("GENREC_CACHE", str(tmp_path / "cache"))
        (answer,) = run("recommend", "u1", *OURS, "--json").json
        assert answer["items"][0]["source"].startswith("blend: ")
        assert any("genrec model get" in notice for notice in answer["notices"])

    def test_an_altered_model_is_2_and_names_the_file(
        self, files: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = files / "cache" / "models" / smollm2.name
        shutil.copytree(smollm2, copy, copy_function=_link)
        (copy / "config.json").unlink()
        (copy / "config.json").write_text("{}", encoding="utf-8")
        monkeypatch.setenv("GENREC_CACHE", str(files / "cache"))
        (answer,) = run("recommend", "u1", *OURS, "--encoder", "none", "--json").json
        assert any("config.json was altered" in notice for notice in answer["notices"])  # another stage answers
        result = run("recommend", "u1", *OURS, "--encoder", "none", "--model", smollm2.name)
        assert result.exit_code == 2
        assert "config.json was altered" in result.err
        assert "genrec model get" in result.err

    def test_an_altered_index_is_2_and_names_the_file(self, files: Path, smollm2: Path) -> None:
        assert run("index", "build", "saved", "--items", "items.csv").exit_code == 0
        with (files / "saved" / "trie.safetensors").open("ab") as file:
            file.write(b"x")
        result = run("recommend", "--index", "saved", *NO_MODELS)
        assert result.exit_code == 2
        assert "trie.safetensors was altered" in result.err

    def test_ctrl_c_is_130_and_quiet(self, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(loading, "load_recommender", interrupted)
        result = run("recommend", "u1", *OURS)
        assert (result.exit_code, result.out, result.err) == (130, "", "")

    @pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
    def test_a_reader_who_leaves_is_no_error(self, form: list[str], files: Path) -> None:
        """`genrec ... | head` is how people look; it must not end in a traceback."""
        rows = "".join(f"{row},Lamp number {row}\n" for row in range(5000))
        (files / "many.csv").write_text(f"item_id,title\n{rows}", encoding="utf-8")
        command = [sys.executable, "-m", "genrec", "recommend", "--items", "many.csv", "--k", "5000", *NO_MODELS, *form]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(1)
            process.stdout.close()
            progress = {"Reading many.csv", "Loading models"}  # on a busy machine, after two seconds
            assert set(process.stderr.read().splitlines()) <= progress
        assert process.returncode in (0, 1)  # Python does not always notice


def _link(source_file: str, target: str) -> None:
    Path(target).symlink_to(source_file)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_behind_the_answer_is_told_in_one_line() -> None:
    """A nightly job that fills its disk must say so, and not show the insides of a library."""
    command = [sys.executable, "-m", "genrec", "prompt", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write the output: the disk is full; free some space and try again\n"
