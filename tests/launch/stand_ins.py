"""How the tests call launch scripts: with stand-ins for the cluster's tools, which note what they are told."""

from __future__ import annotations

import json
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Cluster:
    """Runs launch scripts where only stand-ins of the cluster's tools are to be found."""

    folder: Path
    launch: Path
    environment: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, text: str) -> None:
        """Puts a program on the PATH."""
        path = self.folder / "bin" / name
        path.unlink(missing_ok=True)  # it may be a link to the real one
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, script: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs a launch script and checks how it ends."""
        command = ["bash", str(self.launch / script), *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, cwd=self.folder, check=False
        )
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def calls(self) -> list[list[str]]:
        """What the stand-ins were told since the last time this was asked."""
        notes = self.folder / "calls.jsonl"
        if not notes.exists():
            return []
        lines = notes.read_text().splitlines()
        notes.unlink()
        return [json.loads(line) for line in lines]
