"""A photo lab: renders spheres by ray tracing, packs the pictures in threads, writes an index as JSON.

A program of the usual kind, for `spprof run` to look at: pure Python arithmetic, C code that releases the GIL (zlib,
hashlib), threads that wait for each other. Most of the time goes into one line of `pack`, which a profile shows at once.

    python photo_lab.py [pictures] [size]
"""

import hashlib
import json
import math
import queue
import random
import sys
import tempfile
import threading
import zlib
from pathlib import Path


class Vector:
    """Three numbers."""

    __slots__ = ("x", "y", "z")

    def __init__(self, x, y, z):
        self.x, self.y, self.z = x, y, z

    def __sub__(self, other):
        return Vector(self.x - other.x, self.y - other.y, self.z - other.z)

    def __add__(self, other):
        return Vector(self.x + other.x, self.y + other.y, self.z + other.z)

    def scaled(self, factor):
        return Vector(self.x * factor, self.y * factor, self.z * factor)

    def dot(self, other):
        return self.x * other.x + self.y * other.y + self.z * other.z

    def unit(self):
        return self.scaled(1 / math.sqrt(self.dot(self)))


class Sphere:
    def __init__(self, centre, radius, colour):
        self.centre, self.radius, self.colour = centre, radius, colour

    def hit(self, origin, direction):
        """How far along the ray the sphere is met, or None."""
        offset = origin - self.centre
        half_b = offset.dot(direction)
        discriminant = half_b * half_b - offset.dot(offset) + self.radius * self.radius
        if discriminant < 0:
            return None
        distance = -half_b - math.sqrt(discriminant)
        return distance if distance > 1e-4 else None


LIGHT = Vector(4, 6, -5).unit()


def nearest(spheres, origin, direction):
    """The first sphere on the ray. It sorts where a minimum would do, which the profile shows to cost next to nothing."""
    hits = [(sphere.hit(origin, direction), sphere) for sphere in spheres]
    hits = [(distance, sphere) for distance, sphere in hits if distance is not None]
    return sorted(hits, key=lambda hit: hit[0])[0] if hits else None


def shade(spheres, origin, direction):
    """The grey value a ray sees, from 0 to 255."""
    found = nearest(spheres, origin, direction)
    if found is None:
        return int(40 + 60 * max(0, direction.y))
    distance, sphere = found
    point = origin + direction.scaled(distance)
    normal = (point - sphere.centre).unit()
    lit = max(0.0, normal.dot(LIGHT))
    if nearest(spheres, point, LIGHT):
        lit *= 0.3
    return int(255 * min(1.0, 0.1 + 0.9 * lit * sphere.colour))


def render(scene, size):
    """A square picture, one byte a pixel."""
    generator = random.Random(scene)
    spheres = [
        Sphere(Vector(generator.uniform(-3, 3), generator.uniform(-2, 2), generator.uniform(4, 9)), 0.8, generator.random())
        for _ in range(8)
    ]
    eye = Vector(0, 0, -2)
    rows = []
    for y in range(size):
        row = (Vector(2 * x / size - 1, 1 - 2 * y / size, 1.5).unit() for x in range(size))
        rows.append(bytes(shade(spheres, eye, direction) for direction in row))
    return b"".join(rows)


def pack(picture, size, folder, name):
    """Enlarges, compresses and saves a picture; the C code in here lets other threads run."""
    large = b"".join(bytes(picture[y // 24 * size : y // 24 * size + size]) * 24 for y in range(size * 24))
    packed = zlib.compress(large, level=6)
    digest = hashlib.sha256(large * 16).hexdigest()
    (folder / name).write_bytes(packed)
    return {"name": name, "bytes": len(packed), "sha256": digest}


def packer(jobs, index, size, folder):
    """A thread that packs what the renderer hands over, until it hands over None."""
    while (job := jobs.get()) is not None:
        number, picture = job
        index.append(pack(picture, size, folder, f"picture-{number}.z"))


def main():
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 110
    jobs, index = queue.Queue(maxsize=4), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        threads = [threading.Thread(target=packer, args=(jobs, index, size, folder), name=f"packer-{n}") for n in (1, 2)]
        for thread in threads:
            thread.start()
        for number in range(pictures):
            jobs.put((number, render(number, size)))
        for _ in threads:
            jobs.put(None)
        for thread in threads:
            thread.join()
        (folder / "index.json").write_text(json.dumps(sorted(index, key=lambda entry: entry["name"]), indent=1))
    print(f"{pictures} pictures, {sum(entry['bytes'] for entry in index)} bytes packed")


if __name__ == "__main__":
    main()
