"""The config of a student as a file, wherever it comes from."""

import shutil
from pathlib import Path

from logitlake.pipeline.settings.models import StudentSettings
from logitlake.pipeline.students.identity import Parent


def write_config(student: StudentSettings, parent: Parent, directory: Path) -> bool:
    """Write config.json into `directory`, and the student's own code where that is trusted; False if there is none.

    A config with code of its own that lies on a hub is not written. `find_parent` has loaded the config before.
    """
    if parent.directory is not None and (parent.directory / "config.json").is_file():
        shutil.copyfile(parent.directory / "config.json", directory / "config.json")
        for code in parent.directory.glob("*.py") if student.trust_remote_code else ():
            shutil.copyfile(code, directory / code.name)
        return True
    if student.source != "config" or student.trust_remote_code:
        return False
    # Imported here: it imports torch, and only a config that lies on a hub needs it.
    from transformers import AutoConfig

    AutoConfig.from_pretrained(student.model, revision=student.revision).save_pretrained(directory)
    return True
