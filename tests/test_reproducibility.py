"""The same weights on any number of cores, and a report of the same run."""

import os

import torch
from helpers import run_python
from matplotlib.figure import Figure

import model
from model import LightweightCNN, predict

ON_ONE_CORE = """if True:
    import os, sys
    if hasattr(os, "sched_setaffinity"):  # before torch is imported, which counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    import torch
    import model
    from support.dataset import Digits
    folder = sys.argv[1]
    digits = Digits(*torch.load(f"{folder}/digits.pt"), "few")
    model.load_digits = lambda *_: digits
    model.main(["--save-model", f"{folder}/one.pt"])
    print("matplotlib" in sys.modules)
"""


def test_weights_do_not_depend_on_the_number_of_cores(few_loaded, tmp_path):
    """Nor on OMP_NUM_THREADS. And nothing that only drawing needs is imported."""
    model.main(["--save-model", str(tmp_path / "all.pt")])
    torch.save([tensor.clone() for tensor in few_loaded[:4]], tmp_path / "digits.pt")
    done = run_python("-c", ON_ONE_CORE, tmp_path, env=os.environ | {"OMP_NUM_THREADS": "2"})
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr
    every, one = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("all", "one"))
    assert all(torch.equal(every[key], one[key]) for key in every)


def test_report_is_drawn_from_this_run(few_loaded, tmp_path, monkeypatch):
    """From the saved network's logits of the test images, the history, the seed and the bound."""
    given = []
    monkeypatch.setattr("support.report.draw_report", lambda *args: given.extend(args) or Figure())
    weights, report = str(tmp_path / "weights.pt"), str(tmp_path / "report.png")
    model.main(["--report", report, "--save-model", weights, "--epochs", "2", "--seed", "7"])
    history, digits, logits, seed, bound = given
    network = LightweightCNN()
    network.load_state_dict(torch.load(weights, weights_only=True))
    assert torch.equal(logits, predict(network, few_loaded.test_images))
    assert (digits is few_loaded, len(history), seed, bound) == (
        True,
        2,
        7,
        model.FIRST_EPOCH_BOUND,
    )
