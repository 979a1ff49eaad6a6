"""Flags, errors in one line, files that are whole or absent, and how a process ends."""

import errno
import inspect
import io
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from helpers import HERE, masked
from matplotlib.figure import Figure

import model
from support import files
from support.command_line import exit_status, write_picture
from support.files import write_whole


def usage_error(main, flags, capsys):
    """Run `main`, which must refuse the flags with status 2, and return the line that says why."""
    with pytest.raises(SystemExit) as exit:
        exit_status(main, flags)
    assert exit.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    usage, _, message = err.rpartition(": error: ")
    assert usage.startswith("usage: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("flag", "values", "message"),
    [
        *((f"--{name}", ["1.5", "many", "1e3", ""], "must be a whole number, got '") for name in
          ("epochs", "batch-size", "log-interval", "seed")),
        *((f"--{name}", ["0", "-1"], "must be at least 1, got '") for name in
          ("epochs", "batch-size", "log-interval")),
        ("--seed", ["-1", str(2**64)], "must be from 0 to 2**64 - 1, got '"),
        ("--lr", ["fast", ""], "must be a number, got '"),
        ("--lr", ["0", "-0.003", "nan", "inf"], "must be finite and above 0, got '"),
        ("--lr-schedule", ["no-such-schedule"], "invalid choice: 'no-such-schedule'"),
        ("--dataset", ["emnist"], "must be one of auto, mnist, rendered"),
        ("--report", ["report.jpg", "report", "r.PNG.txt"], "must end in .png, .pdf or .svg, got"),
        ("--save-model", ["no such folder/x.pt", "model.py/x.pt", "x" * 300], "cannot write "),
        ("--save-model", ["tests", ".", "models/", ""], " is a folder; add the name of a file"),
        ("--report", ["no such folder/report.png", "no\nfolder/r.png"], "cannot write "),
    ],
)  # fmt: skip
def test_unusable_flags_are_usage_errors(flag, values, message, capsys, monkeypatch):
    """Status 2 and one line that names the flag, before anything is loaded or trained."""
    monkeypatch.chdir(HERE)
    for value in values:
        line = usage_error(model.main, [flag, value], capsys)
        assert line.startswith(f"argument {flag}: ")
        assert message in line


def test_values_at_the_limits_are_accepted():
    flags = ["epochs", "batch-size", "log-interval"]
    args = model.parse_args([f"--{flag}=1" for flag in flags] + ["--lr=1e-300", "--seed=0"])
    assert (args.epochs, args.batch_size, args.log_interval) == (1, 1, 1)
    assert (args.lr, args.seed) == (1e-300, 0)
    assert model.parse_args([f"--seed={2**64 - 1}"]).seed == 2**64 - 1


def test_unknown_flag_is_a_usage_error(capsys):
    assert "--no-such-flag" in usage_error(model.main, ["--no-such-flag"], capsys)


def test_flags_and_train_have_the_same_defaults(monkeypatch):
    flags = vars(model.parse_args([]))
    for name, parameter in inspect.signature(model.train).parameters.items():
        if name in flags:
            assert flags[name] == parameter.default, name


def test_help_tells_every_default_that_is_a_value(capsys, monkeypatch):
    for name in ("MNIST_DATASET", "MNIST_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        model.main(["--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    defaults = [str(v) for v in vars(model.parse_args([])).values() if v not in (None, False)]
    assert re.findall(r"\(default: (\S+)\)", text) == defaults


def test_environment_sets_the_defaults_and_is_checked_too(monkeypatch, capsys):
    for name, value, flag in (
        ("MNIST_DATASET", "rendered", "dataset"),
        ("MNIST_DATA_DIR", "elsewhere", "data_dir"),
    ):
        default = {"dataset": "auto", "data_dir": "data"}[flag]
        for setting, expected in ((value, value), ("", default), (None, default)):
            monkeypatch.delenv(name, raising=False)
            if setting is not None:
                monkeypatch.setenv(name, setting)
            assert getattr(model.parse_args([]), flag) == expected
    monkeypatch.setenv("MNIST_DATASET", "rendered")
    assert model.parse_args(["--dataset", "mnist"]).dataset == "mnist"
    monkeypatch.setenv("MNIST_DATASET", "emnist")
    assert "MNIST_DATASET" in usage_error(model.main, [], capsys)


# --- Where files may be written ---------------------------------------------------------------


@pytest.fixture
def unprivileged():
    """Root is refused nothing, so the test runs as the user "nobody"."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs a user whom a folder can refuse")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.fixture
def refusing_folder():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        Path(folder).chmod(0o755)


@pytest.mark.parametrize("mode", [0o555, 0o666, 0o777], ids=["no w", "no x", "file of another"])
@pytest.mark.parametrize("flag", ["--save-model", "--report"])
def test_missing_permission_is_a_usage_error(refusing_folder, request, capsys, flag, mode):
    """Before training: in a folder, and for an existing file."""
    path = refusing_folder / "file.png"
    if mode == 0o777:
        path.write_bytes(b"theirs")
        path.chmod(0o444)
    refusing_folder.chmod(mode)
    request.getfixturevalue("unprivileged")
    line = usage_error(model.main, [flag, str(path)], capsys)
    assert line == f"argument {flag}: cannot write {path}: {os.strerror(errno.EACCES)}\n"


def test_one_file_cannot_be_weights_and_report(tmp_path, monkeypatch, capsys):
    """Nor through a link or by another spelling."""
    monkeypatch.chdir(tmp_path)
    others = ["x.png", "./x.png", str(tmp_path / "x.png")]
    if os.name == "posix":
        Path("link.png").symlink_to("x.png")
        others.append("link.png")
    for other in others:
        for flags in (["--save-model", "x.png", "--report", other], ["--save-model", other,
                      "--report", "x.png"]):  # fmt: skip
            assert "--save-model and --report are the same" in usage_error(
                model.main, flags, capsys
            )


def test_tilde_in_outputs_is_the_home_folder(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    args = model.parse_args(["--save-model", "~/w.pt", "--report", "~/r.png"])
    assert (args.save_model, args.report) == (tmp_path / "w.pt", tmp_path / "r.png")


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_link_is_followed(few_digits, tmp_path):
    target, link = tmp_path / "real.pt", tmp_path / "link.pt"
    link.symlink_to(target)
    for _ in range(2):  # first to a file that is not there yet
        assert exit_status(model.main, ["--save-model", str(link)]) == 0
        assert link.is_symlink()
        assert target.stat().st_size > 10_000


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
def test_replaced_file_keeps_its_mode_and_a_new_one_obeys_umask(tmp_path):
    path = tmp_path / "weights.pt"
    write_whole(path, b"first")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o640)
    write_whole(path, b"second")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() == b"second"


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    """The file appears whole or not at all."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")

    class FullDisk(io.BytesIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_full(self, mode):
        self.touch()
        return FullDisk()

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OSError, match=r"weights\.pt cannot be written: ") as error:
        write_whole(path, bytes(1000))
    assert os.strerror(errno.ENOSPC) in str(error.value)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]
    assert path.read_bytes() == b"old"


def test_file_that_cannot_be_replaced_keeps_the_new_content_beside_it(tmp_path, monkeypatch):
    """As in a sticky folder, where a file of another user may be written but not replaced."""
    path = tmp_path / "weights.pt"
    path.write_bytes(b"old")

    def refused(self, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(OSError, match=r"weights\.pt cannot be replaced: .*; the new content is in"):
        write_whole(path, b"new")
    (beside,) = (p for p in tmp_path.iterdir() if p != path)
    assert (path.read_bytes(), beside.read_bytes()) == (b"old", b"new")


@pytest.mark.skipif(os.name != "posix", reason="a path may be too short for it")
def test_long_name_can_be_written(tmp_path):
    """255 bytes are the limit of a name; the unfinished file must not need more."""
    path = tmp_path / ("x" * 252 + ".pt")
    for content in (b"new", b"replaced"):
        files.check_writable(path)
        write_whole(path, content)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
        assert path.read_bytes() == content


# --- Errors that end a run --------------------------------------------------------------------


def test_bad_data_ends_with_one_line_and_status_1(tiny_mnist, capsys):
    path = tiny_mnist.raw / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"")
    flags = ["--dataset", "auto", "--data-dir", str(tiny_mnist.folder)]
    assert exit_status(model.main, flags) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert str(path) in err


def test_line_break_in_a_path_does_not_break_the_message(tiny_mnist, tmp_path, capsys):
    flags = ["--dataset", "mnist", "--data-dir", str(tmp_path / "two\nlines")]
    assert exit_status(model.main, flags) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert r"two\nlines" in err


def test_run_on_rendered_digits_warns_once_and_claims_nothing(
    tiny_mnist, tiny_rendered, capsys, caplog
):
    """No line of it can be taken for a result on MNIST."""
    for path in tiny_mnist.raw.iterdir():
        path.unlink()
    flags = ["--dataset", "auto", "--data-dir", str(tiny_mnist.folder)]
    assert exit_status(model.main, flags) == 0
    (warning,) = caplog.messages
    assert warning.startswith("WARNING: MNIST is not complete in ")
    start, *rest = capsys.readouterr().out.splitlines()
    assert masked(start) == "[time] Starting Training on rendered digits, NOT on MNIST"
    assert not [line for line in rest if "MNIST" in line or "WARNING" in line]
    assert "on 10 rendered test images: " in rest[-1]


def test_your_data_has_its_name_in_the_log(few_digits, monkeypatch, capsys):
    monkeypatch.setattr("model.load_digits", lambda *_: few_digits._replace(source="my digits"))
    assert exit_status(model.main, []) == 0
    start, *_, end = map(masked, capsys.readouterr().out.splitlines())
    assert start == "[time] Starting Training on my digits"
    assert end == "[time] Accuracy on 100 test images: ##.##%"


def test_loss_that_is_not_finite_stops_the_run(few_digits, capsys, tmp_path):
    """At the batch where it happens; nothing is saved."""
    flags = ["--lr", "1e38", "--log-interval", "4", "--save-model", str(tmp_path / "weights.pt")]
    assert exit_status(model.main, flags) == 1
    out, err = capsys.readouterr()
    message = (
        r".*: error: epoch 1, batch [2-4]/10: the loss is not finite; try a smaller .*--lr.*\n"
    )
    assert re.fullmatch(message, err)
    assert "Batch 4/10" not in out
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_saved(few_digits, capsys, tmp_path):
    """The only update diverges, and no later loss could show it."""
    path = tmp_path / "weights.pt"
    flags = ["--lr", "1e39", "--batch-size", "320", "--save-model", str(path)]
    assert exit_status(model.main, flags) == 1
    assert "epoch 1, batch 1/1: the weights are not finite" in capsys.readouterr().err
    assert not path.exists()


def test_batch_larger_than_the_set_is_the_set(few_digits, capsys):
    assert exit_status(model.main, ["--batch-size", str(2**63)]) == 0
    assert "  - Batch size: 320\n" in capsys.readouterr().out


def test_too_little_memory_is_one_line(capsys):
    for allocate in (lambda _: torch.empty(2**50), lambda _: bytearray(2**60)):
        assert exit_status(allocate) == 1
        assert re.fullmatch(r".*: error: .+\n", capsys.readouterr().err)
    with pytest.raises(RuntimeError, match="a bug"):

        def bug(_):
            raise RuntimeError("a bug")

        exit_status(bug)


# --- Output -----------------------------------------------------------------------------------


def test_saved_weights_give_the_same_logits(few_digits, tmp_path):
    """Under the documented keys, readable without running code from the file, and no litter."""
    path = tmp_path / "weights.pt"
    assert exit_status(model.main, ["--save-model", str(path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]
    torch.manual_seed(42)
    network = model.LightweightCNN()
    model.train(network, few_digits.images, few_digits.labels)
    loaded = model.LightweightCNN()
    loaded.load_state_dict(torch.load(path, weights_only=True))
    assert torch.equal(
        model.predict(loaded, few_digits.test_images),
        model.predict(network, few_digits.test_images),
    )
    layers = ("conv1", "conv2", "conv3", "fc1", "fc2")
    keys = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert keys < set(loaded.state_dict())


def test_seed_decides_the_weights(few_digits, tmp_path):
    """42 is the default; 43 and 0 give other weights."""
    saved = {}
    for seed in (None, "42", "43", "0"):
        path = tmp_path / f"{seed}.pt"
        flags = [] if seed is None else ["--seed", seed]
        assert exit_status(model.main, [*flags, "--save-model", str(path)]) == 0
        saved[seed] = torch.load(path, weights_only=True)["conv1.weight"]
    assert torch.equal(saved[None], saved["42"])
    assert not torch.equal(saved["42"], saved["43"])
    assert not torch.equal(saved["42"], saved["0"])


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("PDF", b"%PDF-"), ("svg", b"<?xml")]
)
def test_suffix_names_the_format(tmp_path, suffix, magic):
    path = tmp_path / f"picture.{suffix}"
    write_picture(path, lambda: Figure(figsize=(1, 1)))
    assert path.read_bytes().startswith(magic)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_settings_of_the_user_do_not_matter(tmp_path):
    """TeX may be missing, and an odd size would cut the picture."""

    def draw():
        figure = Figure(figsize=(2, 1))
        figure.suptitle("text")
        return figure

    write_picture(tmp_path / "default.png", draw)
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "savefig.dpi": 10}):
        write_picture(tmp_path / "odd.png", draw)
    assert (tmp_path / "default.png").read_bytes() == (tmp_path / "odd.png").read_bytes()


def test_what_the_terminal_cannot_show_is_replaced(monkeypatch):
    """A data folder with an Armenian name, on a Western European terminal."""
    monkeypatch.setenv("MNIST_DATA_DIR", "Ձ")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as exit:
        exit_status(model.main, ["--help"])
    assert exit.value.code == 0
    terminal.flush()
    assert b"(default: ?)" in terminal.buffer.getvalue()


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "not a file"])
def test_streams_of_a_notebook_or_a_program_without_console(stream, few_digits, monkeypatch):
    """Jupyter's streams cannot be reconfigured; pythonw and IDLE have none, or their own."""
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    assert exit_status(model.main, []) == 0


def test_backend_of_matplotlib_does_not_matter_except_to_a_notebook(monkeypatch):
    """matplotlib refuses to be imported with an unknown one. A notebook goes on to use its own."""
    seen = []
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    exit_status(lambda _: seen.append(os.environ["MPLBACKEND"]))
    monkeypatch.delitem(sys.modules, "ipykernel")
    exit_status(lambda _: seen.append(os.environ["MPLBACKEND"]))
    assert seen == ["nonsense", "agg"]


PRINT_LINES = """if True:
    import sys
    from support.command_line import exit_status
    sys.exit(exit_status(lambda _: [print("line", flush=True) for _ in range(100_000)]))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_streams():
    """As in `python model.py >&- 2>&-`: there is no stdout to flush, and that is no error."""
    command = ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, PRINT_LINES]
    assert subprocess.run(command, cwd=HERE, timeout=300, check=False).returncode == 0


def test_closed_pipe_ends_quietly():
    """As in `python model.py | head -3`: neither the next line nor Python's exit may complain."""
    command = [sys.executable, "-c", PRINT_LINES]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=HERE, **pipes) as process:
        assert process.stdout.readline().rstrip() == b"line"
        process.stdout.close()
        assert process.wait(timeout=300) == 141
        assert process.stderr.read() == b""


def test_closed_pipe_of_windows_ends_quietly(few_digits, monkeypatch, capsys):
    """Writing into it raises EINVAL there (cpython issue 79935), not BrokenPipeError."""

    class ClosedPipe(io.StringIO):
        def write(self, text):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    monkeypatch.setattr(sys, "platform", "win32")
    assert exit_status(model.main, []) == 141
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "platform", "linux")
    assert exit_status(model.main, []) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGINT for one process alone")
def test_ctrl_c_ends_with_130_and_writes_nothing(tmp_path):
    command = [sys.executable, HERE / "tests" / "endless_run.py"]
    # No further line comes soon: the first three come because each is flushed.
    command += ["--log-interval", "1000000", "--save-model", tmp_path / "weights.pt"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    environment["PYTHONPATH"] = str(HERE)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        guard = threading.Timer(120, process.kill)  # for a log or an end that never comes
        guard.start()
        try:
            assert [masked(process.stdout.readline())[:6] for _ in range(3)] == ["[time]"] * 3
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate()
        finally:
            guard.cancel()
            process.kill()
    assert (process.returncode, stderr) == (130, "")
    assert list(tmp_path.iterdir()) == []


# --- pytest and the benchmarks ----------------------------------------------------------------


@pytest.fixture
def run_pytest(pytester):
    """A function that runs pytest with our conftest.py in a folder of its own."""
    pytester.makeconftest((HERE / "conftest.py").read_text(encoding="utf-8"))
    return lambda *flags: pytester.runpytest_inprocess("-p", "no:cacheprovider", *flags)


def test_bad_dataset_is_a_usage_error_of_pytest(run_pytest, monkeypatch):
    monkeypatch.setenv("MNIST_DATASET", "emnist")
    result = run_pytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "MNIST_DATASET" in str(result.stderr)
    assert "Traceback" not in str(result.stderr)


GATES = '''"""Two metrics of one gate, of which one breaks."""
GATES = {"good": (">", 1, "%"), "bad": ("<", 5.0, "%"), "count": ("<", 25_000, "")}


def test_gate(gate):
    gate({"count": 10_982, "bad": 6.0, "good": 2.0})


def test_misspelt(gate):
    gate({"god": 2.0})
'''


def test_table_of_metrics(run_pytest, pytester, tiny_mnist, tiny_rendered, tmp_path, monkeypatch):
    """All metrics of a broken gate, a plain message, versions, and why MNIST was not used."""
    pytester.makepyfile(test_two_metrics=GATES)
    (tiny_mnist.raw / "train-images-idx3-ubyte").unlink()
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("MNIST_DATA_DIR", str(tiny_mnist.folder))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_SHA", "0123456789")
    result = run_pytest("--dataset", "auto", "--junitxml", "junit.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    stdout = str(result.stdout)
    assert "AssertionError: bad: 6.00%, must be below 5%" in stdout
    assert "no gate for {'god'}" in stdout
    assert "['good', 'bad', 'count']" in stdout
    for text in (stdout, summary.read_text(encoding="utf-8")):
        assert re.search(
            r"WARNING: MNIST is not complete in .*NOTHING WAS TESTED ON MNIST\.\n", text
        )
        assert re.search(r"Python 3\.\S+, torch \S+, rendered digits, commit 0123456\n\n\|", text)
        table = [re.sub(r" +", " ", line) for line in text.splitlines() if line.startswith("| ")]
        assert table[0] == "| metric | value | gate | kept | dataset |"
        assert table[2:] == [
            "| count | 10,982 | < 25,000 | kept | rendered digits |",
            "| bad | 6.00% | < 5% | **BROKEN** | rendered digits |",
            "| good | 2.00% | > 1% | kept | rendered digits |",
        ]
    junit = (pytester.path / "junit.xml").read_text(encoding="utf-8")
    assert 'name="bad" value="6.00%, &lt; 5%, **BROKEN**, rendered digits"' in junit
    assert torch.__version__ in junit


@pytest.mark.parametrize("summary", ["", "no such folder/summary.md"])
def test_missing_summary_of_a_job_breaks_nothing(pytestconfig, monkeypatch, summary):
    plugin = pytestconfig.pluginmanager.get_plugin(str(HERE / "conftest.py"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", summary)
    shown = []
    reporter = SimpleNamespace(section=shown.append, write_line=shown.append)
    config = SimpleNamespace(stash=pytest.Stash())
    plugin.pytest_configure(config)
    config.stash[plugin.METRICS].append(["parameters", "10,982", "< 25,000", "kept", "MNIST"])
    plugin.pytest_terminal_summary(reporter, config)
    assert "| parameters | 10,982 | < 25,000 | kept | MNIST   |" in shown[1]
    assert ("WARNING" in shown[-1]) == bool(summary)
