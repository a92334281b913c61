"""A shop that forgets to forget: two leaks, one in Python and one in C, for `spprof run --memory` to find.

Every request renders a page, scales a picture in memory from malloc, and drops most of what it made. A catalogue of honest size
stays; so do, by mistake, two other things.

    python leaky_shop.py [requests]
"""

import ctypes
import json
import random
import sys

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None

CATALOGUE = {number: {"name": f"Thing {number}", "price": number % 97, "stock": number % 4} for number in range(5000)}
PAGES = {}


def render(request, article):
    """The page of an article. It is the same for everybody, but remembered for every request anew."""
    key = (request, article["name"])
    if key not in PAGES:
        PAGES[key] = json.dumps({"article": article, "others": [CATALOGUE[i]["name"] for i in range(200)]})
    return PAGES[key]


def thumbnail(article, size=96):
    """Scales the article's picture. Who comes for what is sold out leaves without cleaning up."""
    pixels = libc.malloc(size * size * 3)
    ctypes.memset(pixels, article["price"], size * size * 3)
    if article["stock"] == 0:
        return None
    small = ctypes.string_at(pixels, size)
    libc.free(pixels)
    return small


def serve(request):
    article = CATALOGUE[random.randrange(len(CATALOGUE))]
    return len(render(request, article)), thumbnail(article)


def main():
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    served = sum(serve(request)[0] for request in range(requests))
    print(f"{requests} requests, {served / 1e6:.0f} MB of pages")


if __name__ == "__main__":
    main()
