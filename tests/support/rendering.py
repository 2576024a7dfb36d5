"""A naive renderer: looks for the place of each ray that is deepest in a solid, then for where it entered."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

CONSTRAINTS = {
    "pack": lambda x, y, z: [abs(z) / 0.5, abs(x), abs(y)],
    "cup": lambda x, y, z: [np.hypot(x, z) / 0.75, abs(y) / 1.1],
    "pillow": lambda x, y, z: [np.sqrt((x**2 + y**2) / 1.5**2 + (z / 0.5) ** 2), abs(x), abs(y)],
    "book": lambda x, y, z: [abs(z) / 0.05, abs(x) / 1.1, abs(y) / 1.1],
    "ball": lambda x, y, z: [np.sqrt(x**2 + y**2 + z**2)],
}
"""Inside where all are at most 1. The first is that of the face that wears the canvas, where z > 0."""
DEPTHS = {"pack": 0.5, "cup": 0.75, "pillow": 0.5, "book": 0.05, "ball": 1.0}


def outside(name: str, places: np.ndarray) -> np.ndarray:
    """How far out places (…, 3) are; inside up to 1."""
    farthest: np.ndarray = np.max(CONSTRAINTS[name](*np.moveaxis(places, -1, 0)), axis=0)
    return farthest


def turned(elev: float, azim: float, angle: float) -> Rotation:
    """From the camera's axes to the solid's: up, to the right, and against the solid's own turn."""
    up, right, own = ((axis, math.radians(by)) for axis, by in (("x", -elev), ("y", azim), ("z", -angle)))
    parts = [Rotation.from_euler(*each) for each in (own, right, up)]
    rotation: Rotation = parts[0] * parts[1] * parts[2]
    return rotation


def stands(name: str, camera: tuple[float, float, float, float]) -> np.ndarray:
    """Where a camera (elev, azim, angle, dist) is."""
    *angles, dist = camera
    place: np.ndarray = turned(*angles).apply([0, 0, dist * (math.sqrt(3) + DEPTHS[name])])
    return place


@dataclass(frozen=True)
class Traced:
    """Of a square picture's pixels, row after row.

    Attributes:
        hit, covered: bool (S²,), whether a pixel shows the solid, and its canvas.
        places, normals: (S², 3).
        matrix: (S², S²), from the canvas's pixels to the picture's, where it is covered.
    """

    hit: np.ndarray
    covered: np.ndarray
    places: np.ndarray
    normals: np.ndarray
    matrix: np.ndarray

    def light(self, location: tuple[float, float, float], ambient: float, diffuse: float) -> np.ndarray:
        """By how much colours are multiplied, (S²,)."""
        towards = np.array(location) - self.places
        cosines = (self.normals * towards).sum(axis=1) / np.linalg.norm(towards, axis=1)
        return ambient + diffuse * np.maximum(cosines, 0)


def traced(name: str, side: int, camera: tuple[float, float, float, float]) -> Traced:
    *angles, _ = camera
    origin = stands(name, camera)
    at = (np.arange(side) + 0.5) / side * 2 - 1
    pixels = np.array([(x, -y, -math.sqrt(3)) for y in at for x in at])
    rays = turned(*angles).apply(pixels / np.linalg.norm(pixels, axis=1, keepdims=True))
    near, far = np.zeros(side**2), np.full(side**2, 9.0)
    for _ in range(120):  # how far out a ray is has one minimum, because solids are convex
        third = (far - near) / 3
        nearer, farther = (outside(name, origin + each[:, None] * rays) for each in (near + third, far - third))
        near, far = np.where(nearer > farther, near + third, near), np.where(nearer > farther, far, far - third)
    hit = outside(name, origin + near[:, None] * rays) < 1
    low, high = np.zeros(side**2), near
    for _ in range(60):
        middle = (low + high) / 2
        within = outside(name, origin + middle[:, None] * rays) <= 1
        low, high = np.where(within, low, middle), np.where(within, middle, high)
    places = origin + high[:, None] * rays
    normals = np.stack(
        [(outside(name, places + each) - outside(name, places - each)) / 2e-6 for each in 1e-6 * np.eye(3)], axis=1
    )
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    worn = hit & (np.argmax(CONSTRAINTS[name](*places.T), axis=0) == 0) & (places[:, 2] > 0)
    across, down = _on_canvas(name, places)
    covered = worn & (abs(across) <= 1) & (abs(down) <= 1)
    matrix = np.zeros((side**2, side**2))
    for pixel in np.flatnonzero(covered):
        for row, by_row in _bilinear(down[pixel], side):
            for column, by_column in _bilinear(across[pixel], side):
                matrix[pixel, row * side + column] += by_row * by_column
    return Traced(hit, covered, places, normals, matrix)


def _on_canvas(name: str, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y, z = places.T
    if name == "cup":
        return 0.75 * np.angle(z + 1j * x), -y
    if name == "ball":
        return np.angle(z + 1j * x), -np.arctan2(y, np.hypot(x, z))
    return x, -y


def _bilinear(at: float, side: int) -> list[tuple[int, float]]:
    """Pixels near a place of a line from -1 to 1, with their weights; beyond the last pixel's middle, that pixel."""
    place = min(max((at + 1) / 2 * side - 0.5, 0), side - 1)
    low = min(int(place), side - 2)
    return [(low, 1 - (place - low)), (low + 1, place - low)]
