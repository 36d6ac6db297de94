"""Check a training run from Python, then train it: `python examples/train_from_python.py configs/tiny/smoke.yaml`.

The training itself goes into `output_dir` of the YAML; a second start goes on where the first one stopped.
"""

import sys
from pathlib import Path

from plumbline import TrainOptions, UserError, load_run, run_training


def main(config: Path) -> int:
    try:
        loaded = load_run(config)
        for note in loaded.notes:
            print("note:", note)
        outcome = run_training(config, TrainOptions())
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("trained:", outcome.folder)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
