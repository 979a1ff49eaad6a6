"""The same network and recipe as tutorials write them: the yardstick of benchmarks/epoch.py."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

# As in dataset.py, which is not imported here: its cost is not to be this script's.
DATA_DIR = os.environ.get("MNIST_DATA_DIR") or Path(__file__).resolve().parent.parent / "data"


class PlainCNN(nn.Module):
    """LightweightCNN with the dense layout throughout and the activation before the pool."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 20, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(20)
        self.dropout = nn.Dropout(0.1)
        self.fc1 = nn.Linear(180, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.leaky_relu(self.bn1(self.conv1(x)), 0.1), 2)
        x = F.max_pool2d(F.leaky_relu(self.bn2(self.conv2(x)), 0.1), 2)
        x = F.max_pool2d(F.leaky_relu(self.bn3(self.conv3(x)), 0.1), 2)
        x = self.dropout(x.flatten(1))
        return self.fc2(F.leaky_relu(self.fc1(x), 0.1))


def loader(data_dir, train):
    data = datasets.MNIST(data_dir, train=train, transform=transforms.ToTensor())
    return DataLoader(data, batch_size=32 if train else 1000, shuffle=train, num_workers=1)


def train_batches(model, optimizer, batches):
    """Train on an iterable of batches; return mean loss and accuracy in percent."""
    total_loss = correct = seen = 0
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        total_loss += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return total_loss / seen, 100 * correct / seen


def main():
    torch.manual_seed(42)
    model = PlainCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    loss, accuracy = train_batches(model, optimizer, loader(DATA_DIR, train=True))
    print(f"Final Loss: {loss:.4f}, Final Accuracy: {accuracy:.2f}%")
    model.eval()
    with torch.no_grad():
        correct = sum(
            (model(images).argmax(1) == labels).sum().item()
            for images, labels in loader(DATA_DIR, train=False)
        )
    print(f"Accuracy on 10,000 held-out test images: {correct / 100:.2f}%")


if __name__ == "__main__":
    main()
