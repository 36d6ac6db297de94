"""Shapes in pixels: what they are, how they are ordered, how the picture's edge cuts them.

Convention, stated once: the picture is the rectangle [0, W] x [0, H], y runs down, a pixel's centre is at +0.5.
"""

from plumbline.geometry.clip import clip_to_canvas
from plumbline.geometry.order import ORDERINGS, order_objects
from plumbline.geometry.shapes import KINDS, Box, Polygon, Polyline, Quad, Shape, shape_from_flat

__all__ = [
    "KINDS",
    "ORDERINGS",
    "Box",
    "Polygon",
    "Polyline",
    "Quad",
    "Shape",
    "clip_to_canvas",
    "order_objects",
    "shape_from_flat",
]
