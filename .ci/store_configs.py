"""Writes the `config.json` of a small MAE and of a small i-MAE below a folder."""

import sys
from pathlib import Path

# The presets are files of the clone, which no package brings.
sys.path.insert(0, str(Path(__file__).parent.parent))

from configs import imae, mae  # noqa: E402

for name, preset in (("mae", mae), ("imae", imae)):
    folder = Path(sys.argv[1], name)
    folder.mkdir()
    (folder / "config.json").write_text(preset.get_config("digits,runlocal").to_json())
