"""Count what a model sees in a folder: `python examples/caption_folder.py output/merged photos/`."""

import sys
from collections import Counter
from pathlib import Path

from plumbline import Captioner, Sampling


def main(model: Path, photos: Path) -> None:
    captioner = Captioner(model, sampling=Sampling(max_new_tokens=512), batch_size=4)
    seen: Counter[str] = Counter()
    for row in captioner.describe(sorted(photos.iterdir())):
        print(f"{row.image}: {row.status}, {len(row.objects)} objects")
        seen.update(item.desc.split("/")[0] for item in row.objects)
    for name, count in seen.most_common():
        print(f"{count:6}  {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
