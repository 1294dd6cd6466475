"""Print where a run stands: ``dist-calo status FOLDER``."""

from collections.abc import Sequence
from pathlib import Path

from dist_calo.cli.command_line import one_line_parser
from dist_calo.errors import CheckpointError

DESCRIPTION = """Print where the run of a checkpoint folder stands: steps, checkpoints, MLflow run, and how to go on.

Reads the small JSON files that lie beside the checkpoints, and who holds their lock; may be used while the run goes on.
"""


def main(arguments: Sequence[str]) -> int:
    """Print the state of each folder.

    Raises:
        CheckpointError: if a folder holds no checkpoint and no job trains there or waits for its turn, what lies there
            cannot be read, or no folder is named and none lies here; after all others.
    """
    parser = one_line_parser("dist-calo status", DESCRIPTION)
    parser.add_argument(
        "folder", nargs="*", help="folder of checkpoints (checkpoint.dir); without one, all that lie here"
    )
    options = parser.parse_args(list(arguments))

    from dist_calo.training.status import default_folders, describe, queued

    folders = [Path(folder) for folder in options.folder] or default_folders()
    jobs = queued([folder.name for folder in folders])
    errors = []
    for number, folder in enumerate(folders):
        if number:
            print()
        try:
            for name, text in describe(folder, jobs.get(folder.name)):
                print(f"{name:<13}{text}")
        except CheckpointError as error:
            errors.append(str(error))
    if errors:
        raise CheckpointError("; ".join(errors))
    return 0
