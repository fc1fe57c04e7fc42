"""Layers that stay fast inside a compiled loop. They take images as they are stored:
`(height, width, channels)`.
"""

from ._conv2d import Conv2d as Conv2d
from ._pool import AvgPool2d as AvgPool2d, MaxPool2d as MaxPool2d
