"""The same layers and recipe as tutorials write them, for benchmarks/speed.py to compare with."""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model import LightweightCNN

DATA_DIR = os.environ.get("MNIST_DATA_DIR") or Path(__file__).resolve().parent.parent / "data"


class TextbookCNN(LightweightCNN):
    """With the activation before the pool, and in torch's default memory format."""

    def __init__(self):
        super().__init__()
        self.to(memory_format=torch.contiguous_format)

    def forward(self, x):
        x = F.max_pool2d(F.leaky_relu(self.bn1(self.conv1(x)), 0.1), 2)
        x = F.max_pool2d(F.leaky_relu(self.bn2(self.conv2(x)), 0.1), 2)
        x = F.max_pool2d(F.leaky_relu(self.bn3(self.conv3(x)), 0.1), 2)
        x = self.dropout(x.flatten(1))
        return self.fc2(F.leaky_relu(self.fc1(x), 0.1))


def loader(train):
    data = datasets.MNIST(DATA_DIR, train=train, transform=transforms.ToTensor())
    return DataLoader(data, batch_size=32 if train else 1000, shuffle=train, num_workers=1)


def train(network, batches, optimizer):
    """Train for one epoch; return mean loss and accuracy in percent."""
    total_loss = correct = seen = 0
    network.train()
    for images, labels in batches:
        optimizer.zero_grad()
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return total_loss / seen, 100 * correct / seen


@torch.no_grad()
def evaluate(network, batches):
    network.eval()
    return (
        100
        * sum((network(x).argmax(1) == y).sum().item() for x, y in batches)
        / len(batches.dataset)
    )


def main(argv=None):
    torch.manual_seed(42)
    network = TextbookCNN()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    loss, accuracy = train(network, loader(train=True), optimizer)
    print(f"Final Loss: {loss:.4f}, Final Accuracy: {accuracy:.2f}%")
    accuracy = evaluate(network, loader(train=False))
    print(f"Accuracy on 10,000 test images: {accuracy:.2f}%")


if __name__ == "__main__":
    main()
