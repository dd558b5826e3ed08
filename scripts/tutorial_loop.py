"""Trains MNIST like a typical tutorial: a plain PyTorch loop in float32, with transforms applied image by image.

One fault is corrected: the tutorial chooses the best epoch on the test set; here the last epoch counts. Prints one line
per epoch with the seconds since the start and the test accuracy.
"""

import argparse
import time

START = time.perf_counter()

import torch  # noqa: E402  (the measured time includes these imports)
from torch import nn, optim  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import datasets, transforms  # noqa: E402


class CNN(nn.Module):
    """The tutorial's network: 225,034 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_layers = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (N, 10) for images (N, 1, 28, 28)."""
        logits: torch.Tensor = self.classifier(self.conv_layers(images))
        return logits


def evaluate(model: nn.Module, loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return the accuracy on a data loader."""
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(1) == labels).sum().item()
            total += labels.size(0)
    return correct / total


def main() -> None:
    """Train and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    train_set = datasets.MNIST(options.data_dir, train=True, download=True, transform=transform)
    test_set = datasets.MNIST(options.data_dir, train=False, transform=transform)
    train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=1000)
    model = CNN()
    optimizer = optim.Adam(model.parameters(), lr=0.001)
    criterion = nn.CrossEntropyLoss()

    for epoch in range(options.epochs):
        model.train()
        for images, labels in train_loader:
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = evaluate(model, test_loader)
        print(f"epoch {epoch + 1} seconds {time.perf_counter() - START:.2f} accuracy {accuracy:.4f}", flush=True)


if __name__ == "__main__":
    main()
