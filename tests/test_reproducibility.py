"""`python model.py`: same seed, same weights, with any number of cores; and what is drawn."""

import os

import pytest
import torch
from helpers import run_python

import model
from model import LightweightCNN, predict, train


def test_training_and_prediction_use_one_thread(few_digits):
    """And give the others back, also after an error."""
    network, used = LightweightCNN(), []
    network.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        train(network, few_digits)
        predict(network, few_digits.images)
        with pytest.raises(IndexError):
            train(network, few_digits._replace(labels=torch.zeros(0, dtype=int)))
        assert (set(used), torch.get_num_threads()) == ({1}, 3)
    finally:
        torch.set_num_threads(threads)


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


def test_report_is_drawn_from_the_test_images(few_loaded, tmp_path, monkeypatch):
    """And from the history and the seed of the same run."""
    given = []

    def draw(*args):
        from matplotlib.figure import Figure

        given.extend(args)
        return Figure(figsize=(1, 1))

    monkeypatch.setattr("support.report.draw_report", draw)
    weights = tmp_path / "weights.pt"
    flags = ["--report", str(tmp_path / "report.png"), "--save-model", str(weights)]
    model.main([*flags, "--epochs", "2", "--seed", "7"])
    history, digits, logits, seed = given
    network = LightweightCNN()
    network.load_state_dict(torch.load(weights, weights_only=True))
    assert torch.equal(logits, predict(network, few_loaded.test_images))
    assert (digits is few_loaded, len(history), seed) == (True, 2, 7)
    accuracy = 100 * (logits.argmax(1) == few_loaded.test_labels).double().mean().item()
    assert history[-1].test_accuracy == accuracy
