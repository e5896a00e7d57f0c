"""A network whose training steps take a known time at least, however fast the machine: there is a middle to disturb."""

import time

from torch import Tensor, nn


class SlowNetwork(nn.Module):
    """One hidden layer with dropout, so that random numbers matter; (B, 1, 32, 32) to (B, 10)."""

    def __init__(self, pause_s: float = 0.05) -> None:
        super().__init__()
        self.pause_s = pause_s
        self.layers = nn.Sequential(
            nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.training and not images.is_meta:  # counting its work takes no time
            time.sleep(self.pause_s)
        return self.layers(images)
