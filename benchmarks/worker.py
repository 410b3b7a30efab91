"""Client of a training step that runs in a separate process."""

import json
import subprocess
import sys


class Worker:
    """A training step, ours or PyTorch's, in a separate process."""

    def __init__(self, command: list[str], specification: dict):
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.known = self._ask(json.dumps(specification))

    def _ask(self, line: str) -> dict:
        print(line, file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or '{"error": "it died"}')
        if "error" in answer:
            raise RuntimeError(f"{self._process.args[1:]} failed: {answer['error']}")
        return answer

    def __call__(self) -> float:
        return self._ask("step")["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
