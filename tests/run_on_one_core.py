"""`model.main` on the first core alone, with the digits in FOLDER, where it leaves the weights."""

import os
import sys


def main(folder):
    if hasattr(os, "sched_setaffinity"):  # before torch is imported, which counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    import torch

    import model
    from support.dataset import Digits

    digits = Digits(*torch.load(f"{folder}/digits.pt"), "rendered")
    model.load_digits = lambda *_: digits
    model.main(["--save-model", f"{folder}/one.pt"])
    print("not needed:", {"matplotlib", "torchvision", "PIL"} & set(sys.modules))


if __name__ == "__main__":
    main(sys.argv[1])
