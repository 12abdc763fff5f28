"""The networks of wespeaker in plain torch, channels first, under the names of its weights.

Written from the papers and from the names and shapes of published weights: random weights in that
layout, and what they should give.
"""

import torch
from torch import nn
from torch.nn import functional as F

VARIANCE = 1e-7


def deviation(x):
    """Unbiased deviation over frames, the last axis."""
    return (x.var(-1) + VARIANCE).sqrt()


class Block(nn.Module):
    def __init__(self, given, planes, stride, bottleneck):
        super().__init__()
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        out = 4 * planes if bottleneck else planes
        widths = [given] + [planes] * (len(kernels) - 1) + [out]
        strided = 2 if bottleneck else 1  # which convolution has the stride
        self.count = len(kernels)
        for number, kernel in enumerate(kernels, 1):
            conv = nn.Conv2d(
                widths[number - 1],
                widths[number],
                kernel,
                stride if number == strided else 1,
                kernel // 2,
                bias=False,
            )
            setattr(self, f"conv{number}", conv)
            setattr(self, f"bn{number}", nn.BatchNorm2d(widths[number]))
        self.shortcut = nn.Sequential()
        if stride != 1 or given != out:
            self.shortcut.append(nn.Conv2d(given, out, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.count:
                y = y.relu()
        return (y + self.shortcut(x)).relu()


class ResNet(nn.Module):
    def __init__(self, blocks, bottleneck, mels, embedding, width=32):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for number, count in enumerate(blocks, 1):
            stage = nn.Sequential()
            planes = width * 2 ** (number - 1)
            for index in range(count):
                stride = 2 if number > 1 and index == 0 else 1
                stage.append(Block(channels, planes, stride, bottleneck))
                channels = 4 * planes if bottleneck else planes
            setattr(self, f"layer{number}", stage)
        self.seg_1 = nn.Linear(2 * channels * (mels // 8), embedding)

    def forward(self, features):
        x = self.bn1(self.conv1(features.transpose(1, 2)[:, None])).relu()
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return self.seg_1(torch.cat([x.mean(-1).flatten(1), deviation(x).flatten(1)], 1))


class ConvNorm(nn.Module):
    def __init__(self, given, out, kernel=1):
        super().__init__()
        self.conv = nn.Conv1d(given, out, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm1d(out)

    def forward(self, x):
        return self.bn(self.conv(x).relu())


class Groups(nn.Module):
    def __init__(self, channels, dilation):
        super().__init__()
        size = channels // 8
        self.convs = nn.ModuleList(
            nn.Conv1d(size, size, 3, padding=dilation, dilation=dilation) for _ in range(7)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(size) for _ in range(7))

    def forward(self, x):
        *groups, last = x.chunk(8, 1)
        outputs = []
        for group, conv, norm in zip(groups, self.convs, self.bns, strict=True):
            y = group + outputs[-1] if outputs else group
            outputs.append(norm(conv(y).relu()))
        return torch.cat([*outputs, last], 1)


class Gates(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.linear1 = nn.Linear(channels, 128)
        self.linear2 = nn.Linear(128, channels)

    def forward(self, x):
        return x * self.linear2(self.linear1(x.mean(2)).relu()).sigmoid()[:, :, None]


class Residual(nn.Module):
    def __init__(self, channels, dilation):
        super().__init__()
        self.se_res2block = nn.Sequential(
            ConvNorm(channels, channels),
            Groups(channels, dilation),
            ConvNorm(channels, channels),
            Gates(channels),
        )

    def forward(self, x):
        return x + self.se_res2block(x)


class Attention(nn.Module):
    def __init__(self, channels, has_context):
        super().__init__()
        self.has_context = has_context
        self.linear1 = nn.Conv1d(3 * channels if has_context else channels, 128, 1)
        self.linear2 = nn.Conv1d(128, channels, 1)

    def forward(self, x):
        given = x
        if self.has_context:
            mean, spread = x.mean(2, keepdim=True), deviation(x)[:, :, None]
            given = torch.cat([x, mean.expand_as(x), spread.expand_as(x)], 1)
        weights = F.softmax(self.linear2(self.linear1(given).tanh()), 2)
        mean = (weights * x).sum(2)
        variance = (weights * (x - mean[:, :, None]) ** 2).sum(2)
        return torch.cat([mean, variance.clamp(min=VARIANCE).sqrt()], 1)


class ECAPA(nn.Module):
    def __init__(self, channels, mels, embedding, has_context, has_norm):
        super().__init__()
        self.layer1 = ConvNorm(mels, channels, 5)
        self.layer2 = Residual(channels, 2)
        self.layer3 = Residual(channels, 3)
        self.layer4 = Residual(channels, 4)
        self.conv = nn.Conv1d(3 * channels, 1536, 1)
        self.pool = Attention(1536, has_context)
        self.bn = nn.BatchNorm1d(3072)
        self.linear = nn.Linear(3072, embedding)
        self.bn2 = nn.BatchNorm1d(embedding) if has_norm else nn.Identity()

    def forward(self, features):
        first = self.layer1(features.transpose(1, 2))
        second = self.layer2(first)
        third = self.layer3(second)
        fourth = self.layer4(third)
        x = self.conv(torch.cat([second, third, fourth], 1)).relu()
        return self.bn2(self.linear(self.bn(self.pool(x))))
