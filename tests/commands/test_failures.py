"""Mistakes get one line, defects a line and a log."""

import os
import runpy
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from ml_collections import ConfigDict
from running import ROOT, call, command, environment, fails

from configs import imae, mae
from imae_jax import runtime
from imae_jax.commands import config_overrides, failures
from imae_jax.config import checks, rules
from imae_jax.errors import UserError


def refusal(function, *arguments):
    """The one line with which a function refuses its arguments."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value) and failures.DEFECT not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "text,message",
    [
        ("def get_config(:\n", r"SyntaxError: invalid syntax (c.py, line 1)"),
        ("it's a text\n", "SyntaxError: "),
        ("\xff", "SyntaxError: "),
        ("", "it has no function get_config"),
        ("import nosuch\n", "ModuleNotFoundError: No module named 'nosuch'"),
        ("def get_config(a=''):\n    return 1 / 0\n", "ZeroDivisionError: division"),
        (
            "def get_config(a=''):\n    return 3\n",
            "get_config returns no ConfigDict, but int",
        ),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
        (
            "from ml_collections import FrozenConfigDict as F\nget_config = F\n",
            "get_config returns no ConfigDict, but FrozenConfigDict",
        ),
        (
            "from ml_collections import ConfigDict as C\n"
            "def get_config(): return C({'a': {1, 2}})\n",
            "<class 'set'> is not JSON serializable",
        ),
        (
            "from ml_collections import ConfigDict as C\n"
            "def get_config(): return C({'a': 1, 3: 1})\n",
            "'<' not supported between instances of",
        ),
    ],
)
def test_config_file_with_a_mistake(text, message, tmp_path):
    file = tmp_path / "c.py"
    file.write_bytes(text.encode("latin-1"))
    said = refusal(config_overrides.load, str(file))
    assert said.startswith(f"--config={file}: ") and message in said


def test_config_file_that_is_none(tmp_path):
    assert "SyntaxError" in refusal(config_overrides.load, str(ROOT / "README.md"))
    assert "No such file" in refusal(config_overrides.load, "nosuch.py")
    assert "--config=" in refusal(config_overrides.load, str(tmp_path))


@pytest.mark.parametrize(
    "word,message",
    [
        (
            "evals.separability.alphas[0]=0.2",
            "as in --config.evals.separability.alphas=",
        ),
        ("optim.betas[7]=0.2", "give the whole value, as in --config.optim.betas=0.9,0.95"),
        ("optim.betas[x]=0.2", "as in --config.optim.betas=0.9,0.95"),
        ("seed[0]=1", "as in --config.seed=0"),
        ("model[0]=1", "model is a section, which has no index"),
    ],
)
def test_index_into_a_value(word, message):
    config = imae.get_config("digits")
    assert message in refusal(config_overrides.override, config, [f"--config.{word}"])


def test_key_of_another_kind_of_run():
    presets = runpy.run_path(str(ROOT / "main.py"))["presets"]
    arguments = mae.get_config("digits"), ["--config.mix.alpha=0.3"], presets
    said = refusal(config_overrides.override, *arguments)
    assert "mix.alpha is a key of configs/imae.py; its keys: augment" in said


def test_name_of_another_kind_of_run():
    config = mae.get_config("digits")
    config.model.name = "imae"
    said = refusal(checks.check_keys, config)
    assert said.startswith("invalid model.name='imae': the config has no mix.alpha")
    config = imae.get_config("digits")
    config.model.name = "mae"
    assert "invalid model.name='mae': must be 'imae'" in refusal(checks.check_keys, config)


@pytest.mark.parametrize("key", ["train.total_steps", "model.decoder.width"])
def test_huge_integers(key):
    config = mae.get_config("digits")
    config.update_from_flattened_dict({key: 10**400})
    assert not rules.is_number(10**400)
    assert f"invalid {key}=1000" in refusal(checks.check_keys, config)


def test_platform_that_is_not_there():
    program = "from imae_jax import runtime; runtime.check_devices()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment() | {"JAX_PLATFORMS": "nosuch"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError: no device of JAX can be used" in last
    assert "JAX_PLATFORMS='nosuch': unset it" in last


def test_platform_that_asserts(monkeypatch):
    import jax

    def devices():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", devices)
    assert "there is none; JAX_PLATFORMS='cpu'" in refusal(runtime.check_devices)


def test_user_without_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert "set HOME or XDG_CACHE_HOME" in refusal(runtime.folder)


def test_a_backend_of_matplotlib_that_is_not_there_does_not_matter():
    """A notebook leaves its own to the commands that it starts."""
    program = (
        "import runpy, sys; sys.argv = ['main.py', '--help']\n"
        "try: runpy.run_path('main.py', run_name='__main__')\n"
        "except SystemExit: import matplotlib"
    )
    env = environment() | {"MPLBACKEND": "nosuch"}
    subprocess.run([sys.executable, "-c", program], env=env, check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "name,value,said",
    [
        ("JAX_ENABLE_X64", "maybe", "invalid truth value 'maybe'"),
        ("JAX_DEFAULT_PRNG_IMPL", "nosuch", 'Invalid value "nosuch"'),
    ],
)
def test_variables_with_wrong_values(name, value, said):
    program = (
        "from imae_jax import errors, runtime\n"
        "try: runtime.check_environment(); import matplotlib; print()\n"
        "except errors.UserError as error: print(error)"
    )
    env = environment() | {name: value}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and said in done.stdout, done.stderr
    assert not said or (
        done.stdout.startswith("JAX does not start") and name in done.stdout
    )


def test_closed_streams_take_any_text():
    program = (
        "import sys; from imae_jax import runtime; runtime.print_any_text()\n"
        "print('x', flush=True); print('x', file=sys.stderr, flush=True); sys.exit(3)"
    )
    shell = f'{sys.executable} -c "$0" >&- 2>&-'
    assert subprocess.run(["sh", "-c", shell, program], cwd=ROOT).returncode == 3


def test_main_prepares_the_console():
    """A value that the console cannot print is shown as an escape."""
    arguments = command(
        "config", "--config=configs/mae.py:digits", "--config.data.dir=\xe9"
    )
    env = environment() | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "1"}
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "\\xe9" in done.stdout, done.stderr


def test_console_that_is_not_utf8():
    env = environment() | {"PYTHONIOENCODING": "ascii"}
    arguments = command("config", "--config=configs/imae.py:digits")
    program = "import sys; from imae_jax import runtime; runtime.print_any_text()"
    program += "; print('\\xb1'); print('\\u4e00', file=sys.stderr)"
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("\\xb1\n", "\\u4e00\n")


def test_nothing_compiled_is_kept_without_home(monkeypatch):
    def nowhere():
        raise UserError("no home")

    monkeypatch.setattr(runtime, "folder", nowhere)
    config = SimpleNamespace(jax_compilation_cache_dir=None)  # and no function `update`
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(config=config))
    runtime.enable_compilation_cache()


def test_text_files_name_their_encoding():
    for path in (ROOT / "imae_jax").rglob("*.py"):
        assert ".read_text()" not in path.read_text("utf-8").replace(
            'Path("/proc/cpuinfo").read_text()', ""
        ).replace("        return path.read_text()\n    except OSError", "")


def test_defect_has_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(failures.tempfile, "tempdir", str(tmp_path))
    try:
        ConfigDict().nosuch  # noqa: B018
    except AttributeError as error:
        said = failures.explain(error, ["main.py", "train", "--workdir=a b"])
    (log,) = tmp_path.iterdir()
    assert said.startswith(failures.DEFECT) and said.endswith(f"report it with {log}")
    assert "\n" not in said
    text = log.read_text("utf-8")
    for part in ("main.py train '--workdir=a b'", "Traceback", "nosuch", "jaxlib "):
        assert part in text


def test_a_package_that_is_not_there_has_no_version():
    assert failures._version("jax") == jax.__version__
    assert failures._version("no-such-package") == "absent"


def test_defect_on_a_full_disk(monkeypatch):
    def refuse(**_):
        raise OSError("No space left on device")

    monkeypatch.setattr(failures.tempfile, "mkstemp", refuse)
    try:
        raise AssertionError
    except AssertionError as error:
        said = failures.explain(error, [])
    assert "no log could be written" in said and "test_failures.py:" in said


def test_errors_of_several_lines_get_one():
    assert failures.explain(UserError("invalid x:\n    must be 1"), []) == (
        "invalid x: must be 1"
    )


def test_out_of_memory():
    said = failures.explain(MemoryError("Unable to allocate 1 EiB"), [])
    assert said.startswith("out of memory (Unable to allocate") and "defect" not in said


def test_main_explains_a_defect(tmp_path):
    """The catch-all of main.py: one line and status 1."""
    program = (
        "import sys, runpy; from imae_jax.commands import command_line\n"
        "def broken(*_): return {}['x']\n"
        "command_line.find_command = broken; sys.argv = ['main.py', 'train']\n"
        "runpy.run_path('main.py', run_name='__main__')"
    )
    env = environment() | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"error: {failures.DEFECT}: KeyError: 'x'" in done.stderr
    assert "KeyError" in next(tmp_path.glob("*.log")).read_text("utf-8")


def test_terminated_at_any_time():
    program = (
        "import os, runpy, signal, sys; from imae_jax.commands import command_line\n"
        "command_line.find_command = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.argv = ['main.py', 'eval']; runpy.run_path('main.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == "terminated; rerun the same command to resume\n"


def test_errors_of_threads_are_not_printed():
    program = (
        "import asyncio, threading, absl.logging; from imae_jax import runtime\n"
        "runtime.show_log(); runtime.quiet_threads()\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "absl.logging.error('of a thread'); import atexit; atexit.register(lambda: 1 / 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_slips_through_main(tmp_path):
    train = "train", f"--workdir={tmp_path}/x"
    assert "SyntaxError" in fails(*train, "--config=README.md")
    assert "home folder" in fails(*train[:1], "--workdir=~nosuchuser/x", "--config=x.py")
    index = "--config.evals.separability.alphas[0]=0.2"
    assert "give the whole value" in fails(*train, "--config=configs/imae.py:digits", index)
    assert call("--version").returncode == 0
    assert not (tmp_path / "x").exists()
