"""The benchmarks of published methods: their tables, and a quick run of each."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.accelerator import AcceleratorArguments
from benchmarks.accelerator import main as accelerator
from benchmarks.bars import Bar, report
from benchmarks.ewc_digits import DigitsArguments, permuted_tasks
from benchmarks.ewc_digits import main as ewc_digits
from benchmarks.gat_citeseer import CiteseerArguments, Patience, load_planetoid
from benchmarks.gat_citeseer import main as gat_citeseer
from benchmarks.kendall_toy import KendallArguments, toy_data
from benchmarks.kendall_toy import main as kendall_toy
from benchmarks.maml_sinusoid import SinusoidArguments, draw
from benchmarks.maml_sinusoid import main as maml_sinusoid


def test_a_bar_is_met_within_its_limits(capsys: pytest.CaptureFixture[str]) -> None:
    inside, outside, free = Bar("a", 1.0, least=0.5, most=1.5), Bar("b", 2.0, most=1.5), Bar("c", 9.0)
    assert (inside.met, outside.met, free.met) == (True, False, True)
    assert Bar("d", float("nan"), most=1.0).met is False
    assert report("title", [inside, free]) == 0
    assert report("title", [inside, outside]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_planetoid_files_become_one_graph(tmp_path: Path) -> None:
    """Four known nodes, test nodes 6 and 4 in that order, and node 5 in no file."""
    parts = {
        "edges": [[0, 4], [4, 0], [1, 6], [1, 6]],
        "test_index": [6, 4],
        "y": np.eye(2)[[0]],
        "ally": np.eye(2)[[0, 1, 1, 0]],
    }
    parts |= {"ty": np.eye(2)[[1, 0]], "allx_shape": [4, 3], "allx_data": np.ones(5), "allx_indices": [0, 1, 2, 0, 1]}
    parts |= {
        "allx_indptr": [0, 1, 2, 3, 5],
        "tx_shape": [2, 3],
        "tx_data": np.ones(2),
        "tx_indices": [2, 0],
        "tx_indptr": [0, 1, 2],
    }
    np.savez(tmp_path / "graph.npz", **{name: np.asarray(part) for name, part in parts.items()})
    graph = load_planetoid(tmp_path / "graph.npz")
    words = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]])
    assert torch.equal(graph.features.to_dense()[0], words)
    assert graph.labels.tolist() == [0, 1, 1, 0, 0, 0, 1]
    assert set(map(tuple, graph.edges.T.tolist())) == {(0, 4), (4, 0), (1, 6), (6, 1)} | {(node, node) for node in range(7)}
    assert graph.test.tolist() == [6, 4]


def test_patience_keeps_the_answer_at_the_lowest_loss() -> None:
    patience = Patience(2)
    assert [patience.ends(*epoch) for epoch in [(2, 0.5, 1), (1, 0.4, 2), (3, 0.6, 3), (3, 0.1, 4), (3, 0.1, 5)]] == [
        False
    ] * 4 + [True]
    assert patience.answer == 2


def test_toy_data_and_sinusoids_are_those_of_the_papers() -> None:
    x, labels = toy_data(20_000, 0)
    assert (labels["y1"] - 2 * x - 8).std().item() == pytest.approx(10, rel=0.03)
    assert (labels["y2"] - 3 * x - 3).std().item() == pytest.approx(1, rel=0.03)
    points = draw(2000, 5, torch.Generator().manual_seed(0))
    assert points.x.shape == points.y.shape == (2000, 5, 1)
    assert 4.9 < points.x.abs().max().item() <= 5.0
    assert points.y.square().mean().item() == pytest.approx((5.0**3 - 0.1**3) / (3 * 4.9) / 2, rel=0.1)


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn comes with the extra bench")
def test_permuted_digits_share_their_digits() -> None:
    first, second = permuted_tasks(2, 0)
    assert first.x.shape == (1297, 64)
    assert torch.equal(first.y, second.y)
    assert torch.equal(first.x.sort(dim=1).values, second.x.sort(dim=1).values)
    assert not torch.equal(first.x, second.x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of scikit-learn's own imports
def test_quick_runs_finish(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kendall_toy(KendallArguments(quick=True)) == 0
    assert accelerator(AcceleratorArguments(device="cpu", quick=True)) == 0
    assert ewc_digits(DigitsArguments(quick=True)) == 0
    assert maml_sinusoid(SinusoidArguments(quick=True)) == 0
    assert gat_citeseer(CiteseerArguments(str(shared_data / "benchmarks" / "citeseer.npz"), quick=True)) == 0
    assert "MISSED" not in capsys.readouterr().out


def test_absent_data_is_a_skip(capsys: pytest.CaptureFixture[str]) -> None:
    assert gat_citeseer(CiteseerArguments("no/such/file.npz")) == 0
    assert "skipped" in capsys.readouterr().out
