"""stAdv beside loops written from its paper: the smoothness, where pixels come from, the slope, and what is kept."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.attacks import Sums, Twin, batch_of, some_canvases
from tests.support.attacks import bent as bent_of
from tests.support.attacks import surrogates as seen_by
from transforms.attacks.drivers import stadv
from transforms.attacks.parts.momentum import adam
from transforms.attacks.protocol import Attack, Batch
from transforms.attacks.recipes.names import recipe
from transforms.attacks.surrogates import Surrogates
from transforms.errors import InputError

SIDE = 6


def make(**parameters: Any) -> Attack:
    return recipe("stadv").make(None, **{"steps": 20, **parameters})


def bent(seed: int = 0) -> Sums:
    return bent_of(seed, classes=6, side=SIDE)


def surrogates(*networks: Sums) -> Surrogates:
    return seen_by(*networks, side=SIDE)


def pictures(count: int, seed: int = 0) -> Tensor:
    return some_canvases(count, seed, side=SIDE)


def right(network: Sums, canvases: Tensor) -> Tensor:
    return surrogates(network).logits(canvases / 255).argmax(dim=1)


def roughness(flow: np.ndarray) -> float:
    """Eq. 4, pixel by pixel."""
    total = 0.0
    for row in range(SIDE):
        for column in range(SIDE):
            for down, across in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                if 0 <= row + down < SIDE and 0 <= column + across < SIDE:
                    total += float(np.linalg.norm(flow[:, row, column] - flow[:, row + down, column + across]))
    return total


def flowed(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Eq. 1, pixel by pixel: the four pixels around the place where it comes from, by how near they are."""
    made = np.zeros_like(picture)
    for row in range(SIDE):
        for column in range(SIDE):
            x, y = (
                np.clip(place, 0, SIDE - 1) for place in (column + flow[0, row, column], row + flow[1, row, column])
            )
            for q in {int(np.floor(y)), int(np.ceil(y))}:
                for p in {int(np.floor(x)), int(np.ceil(x))}:
                    made[:, row, column] += picture[:, q, p] * (1 - abs(x - p)) * (1 - abs(y - q))
    return made


def some_flow(seed: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1.9, 1.9, (count, 2, SIDE, SIDE))


def test_the_roughness_is_the_papers() -> None:
    flow = some_flow(0, 3)
    flow[1] = 0.7  # all alike
    found = stadv.roughness(torch.from_numpy(flow)).tolist()
    assert found == pytest.approx([roughness(each) for each in flow], rel=1e-12)
    assert found[1] == 0
    still = torch.zeros(1, 2, SIDE, SIDE, requires_grad=True)
    stadv.roughness(still).sum().backward()
    assert still.grad is not None and (still.grad == 0).all()  # not NaN


def test_pixels_come_from_where_the_flow_points() -> None:
    canvases, flow = pictures(3).double(), some_flow(1, 3)
    found = stadv.flowed(canvases, torch.from_numpy(flow)).numpy()
    for ours, picture, own in zip(found, canvases.numpy(), flow, strict=True):
        assert np.allclose(ours, flowed(picture, own), atol=1e-9)
    still = stadv.flowed(canvases, torch.zeros(3, 2, SIDE, SIDE).double())
    assert torch.equal(still.round(), canvases)


class Recorded:
    """What an attack on a few images did: each flow, and each slope that Adam was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, attack: Attack, network: Sums, batch: Batch) -> None:
        self.flows: list[np.ndarray] = []
        self.slopes: list[np.ndarray] = []
        sample, maker = stadv.flowed, adam

        def watched(canvases: Tensor, flow: Tensor) -> Tensor:
            self.flows.append(flow.detach().numpy().copy())
            return sample(canvases, flow)

        def watched_adam(*rates: float) -> Any:
            update = maker(*rates)()

            def given(slope: Tensor) -> Tensor:
                self.slopes.append(slope.numpy().copy())
                return update(slope)

            return lambda: given

        with monkeypatch.context() as patched:
            patched.setattr(stadv, "flowed", watched)
            patched.setattr(stadv, "adam", watched_adam)
            self.seen = surrogates(network)
            self.found = attack(self.seen, batch)


def margin(network: Sums, stored: np.ndarray, label: int, target: int | None) -> float:
    logits = Twin.of(network).logits(stored / 255.0)
    wanted = label if target is None else target
    lead = logits[wanted] - np.delete(logits, wanted).max()
    return float(-lead if target is None else lead)


@pytest.mark.parametrize("targets", [None, [1, 2, 3, 4]])
def test_the_slope_is_that_of_margin_and_roughness(targets: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By differences, one value of the flow after the other; the network is looked at where its input is rounded."""
    canvases, network, tau, tiny = pictures(4, 2), bent(2), 0.01, 1e-6
    labels = right(network, canvases)
    attack = make(steps=4, tau=tau, confidence=99.0)
    seen = Recorded(monkeypatch, attack, network, batch_of(canvases, labels, targets))
    twin, checked = Twin.of(network), 0
    for step in (1, 3):  # at the start, on the pixels, all is a kink
        for image in range(4):
            flow, picture = seen.flows[step][image].astype(float), canvases[image].numpy() / 255
            shown = stadv.flowed(canvases[[image]] / 255, torch.from_numpy(seen.flows[step])[[image]])
            stored = (255 * shown[0]).round().double().numpy() / 255
            logits = twin.logits(stored)
            wanted = int(labels[image]) if targets is None else targets[image]
            rival = int(np.where(np.arange(6) == wanted, -np.inf, logits).argmax())
            pull = np.zeros(6)
            pull[wanted], pull[rival] = (-1, 1) if targets is None else (1, -1)
            weights = twin.pulled(stored, pull)
            for place in np.ndindex(2, SIDE, SIDE):
                ends = [flow.copy(), flow.copy()]
                ends[0][place] -= tiny
                ends[1][place] += tiny
                low, middle, high = (
                    (weights * flowed(picture, end)).sum() - tau * roughness(end) for end in (ends[0], flow, ends[1])
                )
                if abs(high + low - 2 * middle) < 1e-4 * tiny:  # no kink
                    assert seen.slopes[step][image][place] == pytest.approx((high - low) / (2 * tiny), abs=2e-4)
                    checked += 1
    assert checked > 300  # of 576: where neighbours move alike, the roughness has a kink


@pytest.mark.parametrize("targets", [None, [1, 2, 3, 4, 5, 0]])
def test_the_smallest_loss_that_reaches_the_goal_is_kept(
    targets: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvases, network, tau = pictures(6, 4), bent(4), 0.02
    labels = right(network, canvases)
    attack = make(tau=tau, max_flow=0.6, learning_rate=0.2)
    seen = Recorded(monkeypatch, attack, network, batch_of(canvases, labels, targets))
    assert seen.found.measured is not None
    outcomes = []
    for image in range(6):
        target = None if targets is None else targets[image]
        tried = []
        for flow in seen.flows:
            stored = np.rint(flowed(canvases[image].numpy().astype(float), flow[image]))
            lead = margin(network, stored, int(labels[image]), target)
            tried.append((lead > 0, -max(-lead, 0) - tau * roughness(flow[image]), np.abs(flow[image]).max(), stored))
        reached, _, furthest, stored = max(tried, key=lambda each: each[:2])
        assert np.abs(seen.found.canvases[image].numpy() - stored).max() <= 1
        assert float(seen.found.measured["flow"][image]) == pytest.approx(furthest, abs=1e-6)
        outcomes.append(reached)
    assert any(outcomes) and max(np.abs(flow).max() for flow in seen.flows) == pytest.approx(0.6)
    assert (seen.found.measured["flow"] <= 0.6 + 1e-6).all()


def test_a_heavier_roughness_makes_flows_smoother_and_confidence_a_margin() -> None:
    canvases, network = pictures(8, 6), bent(6)
    labels = right(network, canvases)
    batch = batch_of(canvases, labels)
    flows = []
    for tau in (0.0, 0.02):
        found = make(steps=60, tau=tau)(surrogates(network), batch)
        assert found.measured is not None
        changed = (found.canvases.double() - canvases.double()).flatten(1).norm(dim=1)
        flows.append((right(network, found.canvases) != labels, changed))
    both = flows[0][0] & flows[1][0]
    assert int(both.sum()) >= 3
    sure = make(steps=60, confidence=0.5)(surrogates(network), batch).canvases
    logits = surrogates(network).logits(sure / 255)
    lead = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - logits.gather(1, labels[:, None])[:, 0]
    plain = make(steps=60)(surrogates(network), batch).canvases
    before = surrogates(network).logits(plain / 255)
    led = before.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - before.gather(1, labels[:, None])[:, 0]
    assert (lead[both] > led[both] - 1e-6).all() and lead.max() > 0.4


def test_what_is_wrong_already_stays_and_costs_a_look() -> None:
    canvases, network = pictures(3), bent()
    attacked = surrogates(network)
    found = make()(attacked, batch_of(canvases, (right(network, canvases) + 1) % 6))
    assert torch.equal(found.canvases, canvases)
    assert found.measured is not None and (found.measured["flow"] == 0).all()
    assert (attacked.tally.forwards == 1).all() and (attacked.tally.backwards == 1).all()


def test_rows_do_not_depend_on_the_batch() -> None:
    canvases, network = pictures(8, 5), bent(5)
    labels = right(network, canvases)
    labels[2] = (labels[2] + 1) % 6  # taken for another class when clean
    whole = []
    for size in (1, 3, 8):
        parts = []
        for start in range(0, 8, size):
            part, attacked = slice(start, start + size), surrogates(network)
            found = make()(attacked, batch_of(canvases[part], labels[part], first=start))
            assert found.measured is not None
            parts.append((found.canvases, found.measured["flow"], attacked.tally.forwards, attacked.tally.backwards))
        whole.append([torch.cat(column) for column in zip(*parts, strict=True)])
    for other in whole[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole[0], other, strict=True))
    assert whole[0][2].tolist() == [21, 21, 1, 21, 21, 21, 21, 21]
    assert make().cost(3) == (63, 60)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_flow": 0.0}, "max_flow: 0.0 is not above 0"),
        ({"tau": -1.0}, "tau: -1.0 is not at least 0"),
        ({"steps": 0}, "steps: 0 is not at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0 is not above 0"),
        ({"confidence": -1.0}, "confidence: -1.0 is not at least 0"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        make(**parameters)
    assert str(raised.value) == message
