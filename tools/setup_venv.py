"""Makes .venv with the locked dependencies and this project's console scripts; quick when nothing changed.

Runs with the machine's Python, whatever its age (so: no annotations, nothing newer than Python 3.6), uses only the
standard library, and says what is missing. Exit code 3: something is missing on this machine.
"""

import hashlib
import os
import subprocess
import sys
import time

EXIT_MISSING = 3
OLDEST = (3, 11)
PROGRESS_SECONDS = 15
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, ".set-up")
LOCKS = ["requirements/build.txt", "requirements/dev.txt"]
INPUTS = LOCKS + ["pyproject.toml", "core/memorypressure/version.py", "tools/setup_venv.py"]


def say(text):
    """Prints progress to standard error."""
    sys.stderr.write("setup: {}\n".format(text))
    sys.stderr.flush()


def fail(text):
    """Ends with the exit code for something missing."""
    say("missing: {}".format(text))
    sys.exit(EXIT_MISSING)


def digest():
    """What .venv was made from: the inputs' contents, the place of the tree, and the interpreter."""
    total = hashlib.sha256()
    for name in INPUTS:
        with open(os.path.join(ROOT, name), "rb") as file:
            total.update(hashlib.sha256(file.read()).digest())
    total.update(repr((ROOT, sys.version_info[:2])).encode())
    return total.hexdigest()


def run(what, command):
    """Runs a command with its output kept for the case that it fails; prints the time every 15 seconds."""
    say(what)
    started = time.time()
    log_path = os.path.join(VENV, "set-up.log")
    with open(log_path, "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        while True:
            try:
                code = process.wait(timeout=PROGRESS_SECONDS)
                break
            except subprocess.TimeoutExpired:
                say("{}: {:.0f} s".format(what, time.time() - started))
            except BaseException:
                process.kill()
                raise
    if code != 0:
        with open(log_path, "rb") as log:
            sys.stderr.write(log.read().decode("utf-8", "replace")[-4000:])
        say("{} failed with code {}".format(what, code))
        sys.exit(1)


def venv_works():
    """True when .venv has an interpreter of this version that starts."""
    code = "import pip, sys; sys.exit(tuple(sys.version_info[:2]) != {!r})".format(tuple(sys.version_info[:2]))
    try:
        return subprocess.call([VENV_PYTHON, "-c", code], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def main():
    """Sets up what is not set up yet."""
    if sys.version_info[:2] < OLDEST:
        have = ".".join(map(str, sys.version_info[:3]))
        fail(
            "Python 3.11 or newer; {} is {}. Name another one: make PYTHON=python3.12 ...".format(sys.executable, have)
        )
    try:
        with open(STAMP) as file:
            if file.read() == digest() and venv_works():
                return
    except OSError:
        pass
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        fail("Python's venv and ensurepip modules (on Debian: apt-get install python3-venv)")
    started = time.time()
    if not venv_works():
        say("making .venv with {}".format(sys.executable))
        venv.create(VENV, clear=True, with_pip=True, symlinks=True)
    pip = [VENV_PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--no-input"]
    locked = [word for name in LOCKS for word in ("-r", name)]
    # The locks are whole, so nothing is resolved; bytecode is made of what is imported, not of all that is there.
    run("installing the locked dependencies", pip + ["--require-hashes", "--no-deps", "--no-compile"] + locked)
    run("installing the console scripts", pip + ["--no-deps", "--no-build-isolation", "-e", "."])
    with open(STAMP, "w") as file:
        file.write(digest())
    say("done in {:.0f} s".format(time.time() - started))


if __name__ == "__main__":
    main()
