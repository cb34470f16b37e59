"""Domain-adversarial training in two dimensions, where one can see it: two blobs, and the same two moved away.

    python examples/blobs.py --out blobs.png

A small network learns to tell two blobs of points apart. The target are the same blobs, moved so far that the boundary
that is learnt on the source cuts through the target's in the wrong place. Trained adversarially, its features stop
telling where a point came from, and the boundary turns until it parts both pairs, without a single target label.
The data are those of "Blobs-DANN" in https://github.com/pumpikano/tf-dann.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from dann.train import gradient_reversal
from dann.train.objectives.adversarial import domain_loss
from dann.train.objectives.supervised import label_loss
from dann.train.schedule import dann_lam, dann_lr

SOURCE_CENTRES = np.array([[0.0, 0.0], [0.0, 1.0]])
MOVE = np.array([1.0, -1.0])
SPREAD = 0.2
STEPS, BATCH, LR = 1500, 64, 0.01
HIDDEN = 15


def blobs(centres_K2: np.ndarray, per_class: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Points (N, 2) scattered around the centres, and their classes (N,)."""
    labels_N = np.arange(len(centres_K2)).repeat(per_class)
    points_N2 = centres_K2[labels_N] + rng.normal(0, SPREAD, (len(labels_N), 2))
    return torch.from_numpy(points_N2).float(), torch.from_numpy(labels_N)


class Network(nn.Module):
    """Features of a point, and what is told from them: its class, and its domain."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU())
        self.label_classifier = nn.Linear(HIDDEN, len(SOURCE_CENTRES))
        self.domain_classifier = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, points_N2: Tensor) -> Tensor:
        return self.label_classifier(self.features(points_N2))

    def domain_logits(self, features_ND: Tensor, lam: float) -> Tensor:
        """The head learns to tell the domains apart; reversed, its gradient has the features hide them."""
        return self.domain_classifier(gradient_reversal(features_ND, lam)).squeeze(1)


def train(points_N2: Tensor, labels_N: Tensor, target_M2: Tensor | None, *, seed: int) -> Network:
    """A network trained on labelled source points and, where they are given, on unlabelled target points."""
    torch.manual_seed(seed)
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), betas=(0.5, 0.999))  # 0.9 lets two opponents overshoot
    for step in range(STEPS):
        progress = step / STEPS
        optimiser.param_groups[0]["lr"] = LR * dann_lr(progress)
        batch = torch.randint(len(points_N2), (BATCH,))
        source_ND = network.features(points_N2[batch])
        loss = label_loss(network.label_classifier(source_ND), labels_N[batch])
        if target_M2 is not None:
            lam = dann_lam(progress)
            target_ND = network.features(target_M2[torch.randint(len(target_M2), (BATCH,))])
            loss = loss + domain_loss(network.domain_logits(source_ND, lam), network.domain_logits(target_ND, lam))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


@torch.no_grad()
def accuracy(network: Network, points_N2: Tensor, labels_N: Tensor) -> float:
    return (network(points_N2).argmax(1) == labels_N).float().mean().item()


@torch.no_grad()
def draw(axes: Axes, network: Network, domains: dict[str, tuple[Tensor, Tensor]]) -> None:
    """What the network says of every place, and where the points of both domains are."""
    x, y = np.meshgrid(np.linspace(-0.8, 1.8, 300), np.linspace(-1.8, 1.8, 300))
    grid_N2 = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1)).float()
    probability = network(grid_N2).softmax(1)[:, 1].reshape(x.shape).numpy()
    axes.contourf(x, y, probability, levels=20, cmap="coolwarm", alpha=0.4)
    axes.contour(x, y, probability, levels=[0.5], colors="black", linewidths=1)
    for (name, (points_N2, labels_N)), marker in zip(domains.items(), "ox", strict=True):
        colours = np.array(["#1d4ed8", "#b91c1c"])[labels_N.numpy()]
        axes.scatter(*points_N2.T.numpy(), s=12, c=colours, marker=marker, linewidths=0.8, label=name)
    axes.set_aspect("equal")


def main() -> None:
    parser = argparse.ArgumentParser(description="Domain-adversarial training in two dimensions.")
    parser.add_argument("--out", type=Path, default=Path("blobs.png"), help="picture to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so small a network gains nothing from more

    rng = np.random.default_rng(options.seed)
    centres = {"source": SOURCE_CENTRES, "target": SOURCE_CENTRES + MOVE}
    training = {name: blobs(at, 150, rng) for name, at in centres.items()}
    testing = {name: blobs(at, 150, rng) for name, at in centres.items()}

    figure = Figure(figsize=(9, 6.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    target_M2, _ = training["target"]  # the labels of the target are for testing only
    for panel, (title, seen) in zip(panels, {"source only": None, "DANN": target_M2}.items(), strict=True):
        network = train(*training["source"], seen, seed=options.seed)
        right = {name: accuracy(network, *points) for name, points in testing.items()}
        scores = "  ".join(f"{name} {share:.3f}" for name, share in right.items())
        print(f"{title:<12} {scores}")
        draw(panel, network, testing)
        panel.set_title(f"{title}\n{scores}")
    for handle in panels[0].legend(loc="lower left").legend_handles:
        handle.set_color("black")  # colours are classes
    figure.savefig(options.out, dpi=120)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
