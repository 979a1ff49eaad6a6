"""`model.main` on the first COUNT cores, with digits from FOLDER, where it leaves the weights."""

import os
import sys


def main(count, folder):
    if hasattr(os, "sched_setaffinity"):  # before torch is imported, which counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(count)])
    import torch

    import model
    from support.dataset import Digits

    images, labels = torch.load(f"{folder}/digits.pt")
    digits = Digits(images, labels, images[:100], labels[:100], "rendered")
    model.load_digits = lambda *_: digits
    model.main(["--save-model", f"{folder}/{count}.pt"])
    print("not needed:", {"matplotlib", "torchvision", "PIL"} & set(sys.modules))


if __name__ == "__main__":
    main(*sys.argv[1:])
