"""The same layers and recipe as tutorials write them, for benchmarks/speed.py to compare with."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model import LightweightCNN
from support.dataset import data_folder


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
    data = datasets.MNIST(data_folder(), train=train, transform=transforms.ToTensor())
    return DataLoader(data, batch_size=32 if train else 1000, shuffle=train, num_workers=1)


if __name__ == "__main__":
    torch.manual_seed(42)
    network = TextbookCNN()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    correct = 0
    for images, labels in loader(train=True):
        optimizer.zero_grad()
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss.item()  # as for a log
        correct += (logits.argmax(1) == labels).sum().item()
    network.eval()
    with torch.no_grad():
        right = sum((network(x).argmax(1) == y).sum().item() for x, y in loader(train=False))
    print(f"First epoch accuracy: {correct / 600:.2f}%, test accuracy: {right / 100:.2f}%")
